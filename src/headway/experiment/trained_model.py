"""The model of a run, as a module of its own."""

from __future__ import annotations

from torch import nn

from headway.core.algorithm import State
from headway.experiment.federation import Federation
from headway.model.flat_module import FlatModule
from headway.model.personal_model import load_model


def trained_model(federation: Federation, state: State, client: str | None) -> nn.Module:
    """The global model of a state, or a client's with what stays there.

    Raises:
        ConfigError: if personal parameters or statistics stay with the clients, and no client is named.
    """
    module = FlatModule(federation.task, federation.key)
    load_model(module, state, client, federation.known.clients, federation.memory.get)
    return module.release()
