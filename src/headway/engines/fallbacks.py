"""Why clients train in another way than was meant: each reason once, by the name of what fails."""

from __future__ import annotations

import traceback

from torch import nn

from headway.core.stage import Stage
from headway.training.loss_terms import LossTerm
from headway.training.trainer import Trainer

LETTERS = 160  # of an error's text

ALONE = "the clients of such a batch train one at a time, which changes the last bits of what is learned"
WRITTEN = "the clients of such a batch have weights of their own, which changes the last bits of what is learned"


class Fallbacks:
    """Sentences about batches that could not train as was meant; each is kept once in a run.

    >>> fallbacks = Fallbacks()
    >>> fallbacks.add("too large"), fallbacks.add("too large"), fallbacks.take(), fallbacks.take()
    (None, None, ['too large'], [])
    """

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._new: list[str] = []

    def add(self, note: str) -> None:
        """A sentence, unless it is known."""
        if note not in self._known:
            self._known.add(note)
            self._new.append(note)

    def take(self) -> list[str]:
        """The sentences since the last call."""
        new, self._new = self._new, []
        return new


def failure(error: Exception) -> str:
    """The part that fails for several clients at once, and its error, as a phrase.

    The name is that of the outermost stage, trainer or loss term in whose method the error was raised.
    """
    text = next(iter(str(error).strip().splitlines()), "")
    text = text if len(text) <= LETTERS else f"{text[: LETTERS - 3]}..."
    cause = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{_culprit(error)} fails for several clients at once ({cause})"


def _culprit(error: Exception) -> str:
    frames = [(frame.f_locals.get("self"), frame.f_code.co_name) for frame, _ in traceback.walk_tb(error.__traceback__)]
    for kind in (Stage, LossTerm, Trainer):
        for owner, method in frames:
            if isinstance(owner, kind):
                return f"{type(owner).__name__}.{method}"
    if any(isinstance(owner, nn.Module) for owner, _ in frames):
        return "the model"
    return "the training"
