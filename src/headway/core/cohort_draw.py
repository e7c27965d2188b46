"""What a quorum may not do to the cohort that noise is accounted for by."""

from __future__ import annotations

from headway.core.errors import ChainRefused
from headway.core.flow import Flow
from headway.protocol.quorum import Quorum


def check_draw(quorum: Quorum, flow: Flow) -> None:
    """Refuses a quorum that changes who takes part, where a privacy promise rests on how the sampler draws.

    The first to answer are not a random sample, and a client that is asked instead of another was not drawn: neither
    has the amplification of Poisson sampling, or the separation of rounds.

    Raises:
        ChainRefused: for over-selection or replacement with noise, and a sampler with a rate or a separation.
    """
    sampler = flow.sampler
    if sampler is None or (sampler.rate is None and sampler.separation == 1):
        return
    if not any(event.unit == "client" and event.at != "client" for event in flow.events):
        return
    changed = "count" if quorum.count is not None else "replace" if quorum.replace else None
    if changed is None:
        return
    raise ChainRefused(
        needed=f"the cohort as the sampler drew it, since the privacy of {flow.set_by.get('events', 'noise')} rests "
        "on how it draws",
        found="the first clients to answer" if changed == "count" else "other clients in the place of those that fail",
        caused_by=repr(quorum),
        do_this=f"leave quorum.{changed} out, or draw with Uniform, which has no amplification to lose",
    )
