"""An algorithm from the names and numbers of a server: only what is installed here is found by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headway.core.algorithm import Algorithm
from headway.core.errors import ConfigError
from headway.experiment.identity import algorithm_of
from headway.federation.agent.received_names import texts_in

PARTS = {"chain", "trainer", "sampler", "quorum"}
MORE = {"reputation"}  # which only the server has a use for
MOST_STAGES = 64


def algorithm_of_names(described: Mapping[str, Any]) -> Algorithm:
    """The algorithm of a description by names and numbers, as `experiment.identity.described` makes it.

    Raises:
        ConfigError: for a name that is not installed here, or numbers that do not fit.
        ChainRefused: if the stages do not compose.
    """
    if (
        set(described) - MORE != PARTS
        or not isinstance(described["chain"], list)
        or len(described["chain"]) > MOST_STAGES
    ):
        raise ConfigError(
            f"an algorithm of a server needs {', '.join(sorted(PARTS))}, found {', '.join(sorted(described))[:200]}."
        )
    for text in texts_in(described):
        if ":" in text:
            raise ConfigError(
                f"the job names {text!r}, which is code at the server's place: an agent takes only names that are "
                "installed on its own machine. Install the package that has it, with an entry point, at both sides."
            )
    try:
        return algorithm_of(described)
    except (TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"the algorithm of the job cannot be read ({error}).") from error
