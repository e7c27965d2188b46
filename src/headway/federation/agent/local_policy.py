"""The local policy of an agent: what a job must offer, so that the owner of the data lets it train here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from headway.core.algorithm import Algorithm
from headway.core.errors import ConfigError
from headway.core.flow import Flow

OBSERVING = {"losses"}  # what a sampler may read that is a figure of the client's training


def reads_sizes(flows: tuple[Flow, ...]) -> bool:
    """Whether the sampler draws by the clients' numbers of examples, which the server must then know."""
    sampler = flows[-1].sampler
    return sampler is not None and "sizes" in sampler.reads


class PolicyRefused(ConfigError):
    """A job that the local policy does not allow."""


@dataclass(frozen=True)
class LocalPolicy:
    """The conditions on a job; without any, all that the server's chain does is allowed.

    secure_sum: whether the server must see only sums of updates, never one client's.  clip: the largest L2 norm that a
    client's update may be bound to; a chain without a bound, or with a larger one, is refused.  noise: the least noise
    multiplier of what the server releases.  telemetry: whether the server receives figures of this client's training
    and evaluation (losses, metrics, its activity); without it none are sent, and a job that draws clients by them is
    refused.

    Raises:
        ConfigError: for a bound or a noise that is not above 0.
    """

    secure_sum: bool = False
    clip: float | None = None
    noise: float | None = None
    telemetry: bool = True

    def __post_init__(self) -> None:
        for name in ("clip", "noise"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"policy.{name} must be above 0, found {value!r}; leave it out where none is needed.")

    def check(self, algorithm: Algorithm, flows: tuple[Flow, ...], randomness: str = "system") -> None:
        """Refuses an algorithm that lacks what the policy requires.

        randomness: where masks and noise come from in the job.

        Raises:
            PolicyRefused: with all that it lacks, in a sentence for the server.
        """
        lacking = list(self._lacking(algorithm, flows))
        if randomness != "system" and (self.secure_sum or self.noise is not None):
            name = "secure_sum" if self.secure_sum else "noise"
            lacking.append(
                f"policy.{name} needs masks and noise that the server cannot predict, found a job that derives them "
                'from its seed (privacy.randomness = "derived")'
            )
        if lacking:
            raise PolicyRefused(
                f"the local policy of this client does not allow the job: {'; '.join(lacking)}. Change the job's "
                "chain, or ask the owner of the data to change the policy."
            )

    def _lacking(self, algorithm: Algorithm, flows: tuple[Flow, ...]) -> Iterator[str]:
        chain = algorithm.chain
        place = chain.stages.index(chain.aggregator)
        reads = set() if flows[-1].sampler is None else set(flows[-1].sampler.reads)
        if self.secure_sum and all(flow.server_sees == "each" for flow in flows[: place + 1]):
            yield "policy.secure_sum needs a chain in which the server sees only sums, found one that shows it each"
        if self.clip is not None:
            bound = flows[place - 1].bound if place else None  # of one client's update; later ones are of the aggregate
            if bound is None:
                yield f"policy.clip needs updates bound to a norm of {self.clip:g} at most, found no bound"
            elif bound > self.clip:
                yield f"policy.clip needs updates bound to a norm of {self.clip:g} at most, found {bound:g}"
        if self.noise is not None:
            events = flows[-1].events
            least = min((event.noise_multiplier for event in events), default=None)
            if least is None:
                yield f"policy.noise needs a noise multiplier of {self.noise:g} at least, found no noise"
            elif least < self.noise:
                yield f"policy.noise needs a noise multiplier of {self.noise:g} at least, found {least:g}"
        if not self.telemetry and reads & OBSERVING:
            yield (
                f"policy.telemetry is off, and the sampler {type(algorithm.sampler).__name__} draws clients by their "
                "training losses"
            )
