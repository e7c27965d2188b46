"""A client's side of the wire: bytes in, bytes out."""

from __future__ import annotations

from headway.client.client_algorithm import ClientAlgorithm
from headway.client.participant import Participant
from headway.client_state.store import Memory, MemoryStore
from headway.data import FederatedData
from headway.protocol.wire_messages import decode_request, encode_reply

COMMITTED = (-1, 0)  # the tag of memory from before the first request


class RemoteClient:
    """A participant that is reached by bytes alone, with a memory store of its own.

    most: the largest number of bytes that a request may have.
    """

    def __init__(self, participant: Participant, most: int) -> None:
        self.participant, self.most = participant, most

    @classmethod
    def of(
        cls, client: str, algorithm: ClientAlgorithm, data: FederatedData, memory: Memory | None, most: int
    ) -> RemoteClient:
        """A client with its examples and the memory that it has committed, if any."""
        store = MemoryStore((client,))
        if memory is not None:
            store.propose(client, COMMITTED, memory)
            store.settle(COMMITTED, [client])
        test = data.test_of(client) if client in data.test else None
        return cls(Participant(client, algorithm, data.train_of(client), test, store), most)

    @property
    def memory(self) -> Memory | None:
        """The client's committed memory, which a simulation saves with its run."""
        return self.participant.memory.get(self.participant.client)

    def serve(self, data: bytes) -> bytes:
        """The reply, as bytes, to a request.

        Raises:
            FrameError: for bytes that are not a request.
        """
        request, binding = decode_request(data, self.most)
        packed = self.participant.algorithm.flows[-1].packed
        return encode_reply(self.participant.answer(request), binding, packed)
