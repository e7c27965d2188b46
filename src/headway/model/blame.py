"""The layer or stage that an exception came from, and what it needs."""

from __future__ import annotations

from collections.abc import Iterator
from types import FrameType

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from headway.core.stage import Stage


def layer_of(error: BaseException) -> str:
    """The layer that an exception came from, as a phrase that follows on another; empty if it came from no layer.

    >>> model = nn.Sequential(nn.Linear(4, 2))
    >>> try:
    ...     model(torch.zeros(8, 3))
    ... except RuntimeError as error:
    ...     layer_of(error)
    ", at layer '0' (Linear), which takes 4 numbers in the last axis and was given [8, 3],"
    """
    calls = [(frame.f_locals["self"], frame) for frame in _frames(error) if _is_call(frame)]
    if not calls:
        return ""
    (root, _), (layer, frame) = calls[0], calls[-1]
    name = next((name for name, part in root.named_modules() if part is layer), "")
    where = f", at layer {name!r} ({type(layer).__name__})" if name else f" of {type(layer).__name__}"
    needs = _needs(layer, frame.f_locals.get("input"))
    return f"{where}, which {needs}," if needs else where


def stage_of(error: BaseException) -> str:
    """The stage and its method that an exception came from; "the server" if none did."""
    found = "the server"
    for frame in _frames(error):
        if isinstance(stage := frame.f_locals.get("self"), Stage):
            found = f"{type(stage).__name__}.{frame.f_code.co_name}"
    return found


def _frames(error: BaseException) -> Iterator[FrameType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _is_call(frame: FrameType) -> bool:
    return isinstance(frame.f_locals.get("self"), nn.Module) and frame.f_code.co_name.endswith("forward")


def _needs(layer: nn.Module, given: object) -> str:
    """The inputs that a layer of torch's takes and was not given, as a phrase; empty if that is not known."""
    if not isinstance(given, Tensor):
        return ""
    shape = list(given.shape)
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        if given.is_floating_point():
            return f"takes whole numbers and was given {_kind(given)}"
        low, high = (int(given.min()), int(given.max())) if given.numel() else (0, 0)
        rows = layer.num_embeddings
        return f"has a table of {rows} rows (0 to {rows - 1}) and was given {low} to {high}" if high >= rows else ""
    weight = getattr(layer, "weight", None)
    if isinstance(layer, nn.Linear) and shape[-1:] != [layer.in_features]:
        return f"takes {layer.in_features} numbers in the last axis and was given {shape}"
    if isinstance(layer, _ConvNd) and shape[-len(layer.kernel_size) - 1 :][:1] != [layer.in_channels]:
        return f"takes {layer.in_channels} channels and was given {shape}"
    if isinstance(weight, Tensor) and weight.dtype != given.dtype and not torch.is_autocast_enabled():
        return f"takes {_kind(weight)} and was given {_kind(given)}"
    return ""


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
