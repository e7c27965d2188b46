"""A run is tried before its first round: the whole path of an update on a few examples, and a look at the outputs."""

from __future__ import annotations

from headway.core.algorithm import State
from headway.engines.preflight import try_once
from headway.experiment.federation import Federation
from headway.observe.divergence import odd_outputs


def dry_run(federation: Federation, state: State, evaluated: bool) -> list[str]:
    """Sentences on what a user should know of the model, its inputs and its outputs.

    evaluated: whether clients are evaluated in the run.

    Raises:
        HeadwayError: naming what fails.
    """
    notices = try_once(federation.engine, federation.central, state, evaluated)
    held = federation.known.held
    return notices if held is None else [*notices, *odd_outputs(federation.flat_module, held)]
