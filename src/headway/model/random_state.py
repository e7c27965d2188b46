"""Process-wide generators of random numbers: torch's own, NumPy's and Python's."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

Drawn = tuple[Any, Any]
GENERATORS = threading.RLock()  # held by a thread while it seeds and draws: two at once would draw from one stream
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=GENERATORS._at_fork_reinit)  # type: ignore[attr-defined]


def outside() -> Drawn:
    """The states of NumPy's and Python's own generators."""
    return np.random.get_state(), random.getstate()


def rewind_outside(drawn: Drawn) -> None:
    """Sets them back to where they were."""
    np.random.set_state(drawn[0])
    random.setstate(drawn[1])


def has_moved(drawn: Drawn) -> bool:
    """Whether one of them has been drawn from since."""
    now: Any = np.random.get_state()
    alike = np.array_equal(now[1], drawn[0][1]) and now[2:] == drawn[0][2:]
    return not alike or random.getstate() != drawn[1]


def seed_outside(seed: int) -> None:
    """Seeds both with a number from 0."""
    np.random.seed([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF])
    random.seed(seed)


@contextmanager
def outside_seeded(seed: int) -> Iterator[None]:
    """Both at this seed, and afterwards where they were."""
    before = outside()
    seed_outside(seed)
    try:
        yield
    finally:
        rewind_outside(before)


@torch.no_grad()
def draws_ambient(model: nn.Module, inputs: Tensor) -> str | None:
    """The part of a model in training that draws from torch's own generator, as a phrase; `None` if none does.

    Calls the model once, in training mode, on a few examples `[B, ...]`, and compares the generator's state before
    and after each module.  Parameters, buffers, modes and the generator are left as they were.  A model that fails
    counts as drawing nothing, since its training will fail in a place where the client is named; so is a scripted one,
    which no batched program can hold.  Draws that depend on the values seen, and those from other generators
    (Python's, NumPy's), are not found.

    >>> draws_ambient(nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5)), torch.zeros(2, 4))
    "1 draws from torch's own generator"
    >>> draws_ambient(nn.Linear(4, 2), torch.zeros(2, 4)) is None
    True
    """
    modes = {part: part.training for part in model.modules()}
    begun: list[Tensor] = []
    found: list[str] = []

    def after(name: str) -> Callable[..., None]:
        def note(*_: object) -> None:
            if not torch.equal(begun.pop(), _state(inputs)):
                found.append(name)  # the innermost module ends first

        return note

    before, hooks = _state(inputs), []
    try:
        for name, part in model.named_modules():
            hooks.append(part.register_forward_pre_hook(lambda *_: begun.append(_state(inputs))))
            hooks.append(part.register_forward_hook(after(name)))
        model.train()
        functional_call(model, {name: buffer.clone() for name, buffer in model.named_buffers()}, (inputs.clone(),))
    except Exception:  # whatever a user's model may raise
        return None
    finally:
        for hook in hooks:
            hook.remove()
        for part, training in modes.items():
            part.training = training
        _restore(before, inputs)
    return f"{found[0] or 'the model'} draws from torch's own generator" if found else None


def _state(inputs: Tensor) -> Tensor:
    """The state of the generators that a model may draw from, on the processor and where the inputs are."""
    parts = [torch.get_rng_state()]
    if inputs.is_cuda:
        parts.append(torch.cuda.get_rng_state(inputs.device))
    return torch.cat(parts)


def _restore(state: Tensor, inputs: Tensor) -> None:
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size])
    if inputs.is_cuda:
        torch.cuda.set_rng_state(state[size:], inputs.device)
