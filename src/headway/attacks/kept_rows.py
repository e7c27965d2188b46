"""The chain in whose place an engine works under attack: it keeps the updates, for the attackers to replace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headway.core.chain import Chain
from headway.core.context import ServerContext
from headway.core.errors import ConfigError
from headway.core.flow import Flow
from headway.core.stage import Aggregator, Place
from headway.core.update import Rows, Tensors, Update


@dataclass(frozen=True)
class KeptRows(Aggregator):
    """The updates themselves, in the place of the chain's aggregator, which sees them after the attack; replicas: as
    that one sets them for the clients."""

    place: ClassVar[Place] = Place.AGGREGATE
    whole_cohort: ClassVar[bool] = True
    replicas: int = 1

    def connect(self, flow: Flow) -> Flow:
        """Needs nothing: the chain's own aggregator has its requirements checked apart."""
        return flow.set(self, replicas=self.replicas)

    def reduce(self, rows: Rows, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The plain mean, which nobody asks for."""
        return rows.update(rows.joined().double().mean(0)), state


def with_rows(chain: Chain) -> Chain:
    """The client's stages of a chain, whose updates are kept."""
    before = [stage for stage in chain.stages if stage.place < Place.AGGREGATE]
    return Chain((*before, KeptRows(chain.trace(Flow())[-1].replicas)))


def check_chain(chain: Chain) -> None:
    """Refuses a chain whose updates an attack could not be put into.

    Raises:
        ConfigError: naming the stage.
    """
    unseen = [label for label, stage in chain.labelled if stage.place in (Place.MASK, Place.QUANTISE)]
    if chain.protocol is not None or chain.has_codecs:
        name = unseen[0] if unseen else "a stage that encodes updates"
        raise ConfigError(
            f"an attack is put into updates that are neither encoded nor masked, found {name} in the chain: leave it "
            "out to compare rules under attack."
        )
    if chain.aggregator.has("send"):
        raise ConfigError(
            f"{chain.labels[chain.stages.index(chain.aggregator)]} changes updates at the client: attacks have no form "
            "for it yet; use another rule."
        )
