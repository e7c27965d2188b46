"""The name of the call in which a client failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headway.core import stopping
from headway.core.errors import ClientFailed, HeadwayError
from headway.model.blame import layer_of


@dataclass(slots=True)
class CallTrace:
    """The call of user code that is being made and its inputs, for the error that names them.

    A loop enters each call before it makes it, or, where calls are many, the failing one when it has failed; a loop of
    short turns sets `where` and `inputs` itself.

    client: the client at work.  who: the subject of the error, if that is not the client.
    where, inputs: the call, and its inputs by name.
    """

    client: str
    who: str | None = None
    where: str = "local training"
    inputs: Mapping[str, object] = field(default_factory=dict)

    def enter(self, where: str, **inputs: object) -> None:
        """Records that `where` is called with these inputs."""
        self.where, self.inputs = where, inputs

    def failure(self, error: BaseException) -> ClientFailed | None:
        """The error that names client, stage and inputs, to be raised from this one; `None` for one that passes as it
        is: Headway's own, a stop, and Ctrl-C where signals raise it."""
        if isinstance(error, HeadwayError) or not isinstance(error, Exception | SystemExit | KeyboardInterrupt):
            return None
        if isinstance(error, KeyboardInterrupt) and not stopping.is_installed():
            return None
        inputs: dict[str, object] = {name: _shown(value) for name, value in self.inputs.items()}
        failure = ClientFailed(self.client, self.where + layer_of(error), inputs, error, self.who)
        failure.inputs = dict(self.inputs)
        return failure

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Turns any exception into one that names client, stage and inputs.

        Raises:
            ClientFailed: chained to the original, whose frames stay open to a debugger.
        """
        try:
            yield
        except BaseException as error:
            if (failure := self.failure(error)) is None:
                raise
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
