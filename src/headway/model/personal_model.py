"""The model of the server, and each client's own where a part of it stays with the client."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

from headway.client_state.store import TRAINER, Memories, Memory
from headway.core.algorithm import State
from headway.core.errors import ConfigError, nearest
from headway.model.flat_module import FlatModule

NAMED = 3
MOST_NAMES = 10_000  # among which the nearest to a misspelt one is looked for


def staying(flat_module: FlatModule) -> str:
    """The parts of a model that stay with each client, as a phrase; empty if there are none."""
    parts = ["personal parameters"] if flat_module.personal.numel() else []
    if flat_module.keeps_statistics:
        parts.append("statistics")
    return " and ".join(parts)


def load_model(
    flat_module: FlatModule,
    state: State,
    client: str | None,
    clients: Sequence[str],
    memory_of: Callable[[str], Memory | None],
) -> None:
    """Puts the server's model in the flat module, or a client's with what stays there.

    client: whose; `None` for the server's.  memory_of: what a client keeps.

    Raises:
        ConfigError: if the model has parts that stay with the clients, and no client is named; or there is no such one.
    """
    stays = staying(flat_module)
    if client is None:
        if stays:
            average = ', or train with task.buffers = "average"' if "statistics" in stays else ""
            raise ConfigError(
                f"the model's {stays} stay with each client, and those of the server are the initial ones, with which "
                f"no client was evaluated: name a client whose model is meant, run.model(client=...){average}."
            )
        flat_module.load(state.model, None, state.buffers)
        return
    if client not in clients:
        known = nearest(client, clients) if len(clients) <= MOST_NAMES else f" (there are {len(clients)})"
        raise ConfigError(f"the run has no client {client!r}{known}.")
    own = (memory_of(client) or {}).get(TRAINER, {})
    if stays and not own:
        warnings.warn(
            f"client {client!r} has not been counted in a round yet: its {stays} are the initial ones.", stacklevel=3
        )
    statistics = state.buffers if state.buffers is not None else own.get("statistics")
    flat_module.load(state.model, own.get("personal"), statistics)


def initial_note(flat_module: FlatModule, evaluated: Sequence[str], memory: Memories) -> str:
    """The evaluated clients that have never been counted, so that what stays with them is initial; empty
    if there are none."""
    if not evaluated or not (stays := staying(flat_module)):
        return ""
    counted = set(memory.clients())
    initial = [client for client in evaluated if client not in counted]
    if not initial:
        return ""
    named = ", ".join(initial[:NAMED]) + (f" and {len(initial) - NAMED} more" if len(initial) > NAMED else "")
    return (
        f"{len(initial)} of {len(evaluated)} clients have not been counted in a round yet and are evaluated with "
        f"initial {stays}: {named}."
    )
