"""Names what was being computed when a client failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from headway.core import stopping
from headway.core.errors import ClientFailed, HeadwayError
from headway.model.blame import layer_of


class CallTrace:
    """Remembers the call that is about to be made and its inputs; costs a dictionary per call.

    who: what is named in the place of a client.
    """

    def __init__(self, client: str, who: str | None = None) -> None:
        self.client, self.who = client, who
        self.where = "local training"
        self.inputs: dict[str, object] = {}

    def enter(self, where: str, **inputs: object) -> None:
        """Says that `where` is called next, with these inputs."""
        self.where, self.inputs = where, inputs

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Turns any exception into one that names client, stage and inputs.

        Raises:
            ClientFailed: chained to the original, whose frames stay open to a debugger.
        """
        try:
            yield
        except HeadwayError:
            raise
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if isinstance(error, KeyboardInterrupt) and not stopping.is_installed():
                raise  # Ctrl-C, where signals raise it
            inputs: dict[str, object] = {name: _shown(value) for name, value in self.inputs.items()}
            failure = ClientFailed(self.client, self.where + layer_of(error), inputs, error, self.who)
            failure.inputs = self.inputs
            raise failure from error


def _shown(value: object) -> str:
    """A tensor as its kind, shape and range; anything else as itself, cut short."""
    if not isinstance(value, Tensor):
        text = repr(value)
        return text if len(text) <= 200 else text[:197] + "..."
    text = f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if value.numel() == 0:
        return text + " (empty)"
    numbers = value.detach().double()
    finite = numbers[torch.isfinite(numbers)]
    if finite.numel() < numbers.numel():
        text += f", {numbers.numel() - finite.numel()} not finite"
    return text + (f", from {float(finite.min()):.4g} to {float(finite.max()):.4g}" if finite.numel() else "")
