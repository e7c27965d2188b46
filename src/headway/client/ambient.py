"""Which part of a model draws from torch's own generator when it trains."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call


@torch.no_grad()
def draws_ambient(model: nn.Module, inputs: Tensor) -> str | None:
    """Which part of a model in training draws from torch's own generator, as a phrase; `None` if none does.

    Calls the model once, in training mode, on a few examples `[B, ...]`, and compares the generator's state before
    and after each module.  Parameters, buffers, modes and the generator are left as they were.  A model that fails
    is said to draw nothing, since its training will fail in a place where the client is named; so is a scripted one,
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
