"""A client that was written from docs/secure-sum.md takes part among others."""

import numpy as np
import pytest
import torch
from secure_parties import Parties
from stages.secure_aggregation.plain_masker import PlainMasker, plan

from headway.core.update import Update
from headway.stages.secure_aggregation.neighbour_graph import graph_plan

PLAIN = "c003"


def raw(tensors):
    return {name: bytes(tensor.reshape(-1).tolist()) for name, tensor in tensors.items()}


def with_plain_client(**options) -> Parties:
    """A cohort in which one client is that of the page."""
    parties = Parties(**options)
    exchange, train = parties.exchange, parties.train
    signer = parties.facts(PLAIN, parties_request(parties)).signer
    other = PlainMasker(PLAIN, "run", parties.fingerprint, signer.sign, signer.verify)
    widths = {"share": 148, "unmask": 66}

    def reply(name, request):
        if name != PLAIN:
            return exchange(name, request)
        sent, private = raw(request.message.stages["SecureSum"]), raw(request.private)
        answers = {
            "advertise": lambda: other.advertise(sent, request.round, request.attempt),
            "share": lambda: other.share_out(sent, private),
            "confirm": lambda: other.confirm(sent, private),
            "unmask": lambda: other.unmask(sent),
        }
        found = {name: torch.tensor(list(data), dtype=torch.uint8) for name, data in answers[request.name]().items()}
        if request.name in widths:
            found["shares"] = found["shares"].reshape(-1, widths[request.name])
        return found

    def update(name, request):
        if name != PLAIN:
            return train(name, request)
        bits, codes = parties.flows[3].spec("delta").bits, parties.codes[name].tolist()
        numbers = np.array([*codes, 1, *pieces(parties)]) % 2**bits
        model = [("params", "torch.float32", tuple(parties.model.shape), parties.model.numpy().tobytes())]
        sent = torch.from_numpy(other.masked(numbers, bits, raw(request.message.stages["SecureSum"]), model))
        vectors = {"delta": sent[: parties.size], "numbers": sent[parties.size :]}
        return Update(vectors, torch.zeros((), dtype=torch.float64))

    parties.exchange, parties.train = reply, update
    return parties


def parties_request(parties):
    from headway.protocol.messages import Exchange, Message

    return Exchange(Message(parties.model))


def pieces(parties):
    """The weight, 2^30 of it, in pieces of the bits of the largest integer."""
    width = (1 << (parties.bits - 1)).bit_length() - 1
    units, count = int(parties.cap * 2**30), -(-(int(parties.cap).bit_length() + 30) // width)
    return [units >> (place * width) & ((1 << width) - 1) for place in range(count)]


@pytest.mark.parametrize(
    "options",
    [
        {"count": 6},
        {"count": 9, "lost": {"train": {"c001"}, "confirm": {"c002"}}, "cap": 20, "bits": 12},
        {"count": 6, "bits": 32, "lost": {"train": {"c000"}}},
        {"count": 70, "lost": {"train": {"c001", "c060"}}},
    ],
    ids=["six", "with lost ones", "of 64-bit words", "of a graph"],
)
def test_it_takes_part(options):
    parties = with_plain_client(**options)
    answer = parties.run()
    gone = parties.lost.get("train", set())
    counted = [name for name in parties.names if name not in gone]
    assert not parties.refusals
    assert not answer.notes
    assert torch.equal(answer.total.integers["delta"], parties.plain(counted))
    assert answer.total.weight.value() == sum(parties.weight(name) for name in counted)


@pytest.mark.parametrize(
    ("clients", "needed", "corrupt"), [(64, 45, 0.2), (70, 49, 0.2), (100, 70, 0.2), (130, 120, 0.1)]
)
def test_the_plan_of_the_page(clients, needed, corrupt):
    made = graph_plan(clients, needed, corrupt)
    assert plan(clients, needed, corrupt) == (made.degree, made.threshold)
