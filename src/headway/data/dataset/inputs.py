"""Arrays as users give them, read as inputs: their number types and axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from headway.core.errors import ConfigError, DataError, nearest
from headway.data.dataset.blocks import blocks_of

InputKind = Literal["pictures", "numbers", "tokens"]
INPUT_KINDS: tuple[InputKind, ...] = ("pictures", "numbers", "tokens")

_CHANNELS = (1, 3, 4)
_RAGGED = (
    "{} is ragged, but every example needs the same shape; pad the shorter ones to the longest, with 0 for example "
    "(numpy.pad), or cut them."
)
_TOPS = {"uint8": 255, "uint16": 65_535}  # the brightest pixel of the number types that pictures come in
_FLAT = 0.99  # the share of equal pixels from which on a picture is mentioned
_EXACT = 1 << 24  # whole numbers up to here are exact in float32


def as_tensor(values: Any, what: str) -> Tensor:
    """A tensor of the numbers in `values` (a tensor, an array or nested lists); `what` names it in errors.

    NumPy's and Python's default float64 becomes torch's default float32; a tensor keeps its number type, but for
    uint16 and wider unsigned ones, which become int64 as arrays' do.

    Raises:
        DataError: `values` is ragged or holds something that is not a number.
    """
    if isinstance(values, Tensor):
        return values.detach().long() if number_of(values) in ("uint16", "uint32", "uint64") else values.detach()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(_RAGGED.format(what)) from error
    if array.dtype.kind == "O":
        raise DataError(_RAGGED.format(what))
    if array.dtype.kind not in "biuf":
        raise DataError(f"{what} holds {array.dtype.name} values, but numbers are needed; convert it first.")
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    elif array.dtype.kind != "b" and array.dtype != np.uint8:
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array, order="C"))


def number_of(values: Any) -> str:
    """The name of the number type of an array or a tensor, such as "uint8"; of lists, the one that NumPy gives them."""
    if isinstance(values, Tensor):
        return str(values.dtype).removeprefix("torch.")
    try:
        return str(np.asarray(values).dtype.name)
    except ValueError:
        return "object"


def check_ranges(parts: Mapping[str, Any]) -> None:
    """Refuses parts of one data set, by what to call each, of which some would be scaled by their type and others not.

    Raises:
        DataError: naming two of them.
    """
    first: tuple[str, str] | None = None
    for what, values in parts.items():
        number = number_of(values)
        first = first or (what, number)
        if number != first[1] and {number, first[1]} & set(_TOPS):
            raise DataError(
                f"{what} holds {number}, but {first[0]} {first[1]}: whole numbers of 8 and 16 bits may be scaled by "
                "their range, and others are not; convert one of them, so that both are alike."
            )


def check_input_kind(kind: str | None, option: str = "inputs") -> None:
    """Refuses a way to read inputs that is unknown.

    Raises:
        ConfigError: naming the option.
    """
    if kind is not None and kind not in INPUT_KINDS:
        known = ", ".join(map(repr, INPUT_KINDS))
        raise ConfigError(f"{option} is {kind!r}{nearest(str(kind), INPUT_KINDS)}, but one of {known} is needed.")


def input_kind(values: Any) -> InputKind:
    """The default reading of inputs `[N, ...]`, by their number type and their axes.

    uint8 and uint16 with two axes or more per example are pictures; a table `[N, D]` of uint8, floats and booleans
    are numbers; other whole numbers are tokens.

    >>> input_kind(np.zeros((2, 8, 8), np.uint8)), input_kind(np.zeros((2, 8), np.uint8)), input_kind([[1, 2]])
    ('pictures', 'numbers', 'tokens')
    """
    number = number_of(values)
    axes = values.ndim if isinstance(values, Tensor) else np.asarray(values).ndim
    if number in _TOPS and axes >= 3:
        return "pictures"
    return "numbers" if number in ("uint8", "bool") or number.startswith(("float", "bfloat")) else "tokens"


def read_inputs(
    values: Any, what: str, kind: InputKind | None = None, option: str = "inputs"
) -> tuple[Tensor, tuple[str, ...]]:
    """Model inputs `[N, ...]`, and a note for each conversion; `kind` is that of `input_kind` where it is None.

    pictures: whole numbers are divided by the largest that their type holds (255 or 65,535), so that they lie in
        [0, 1]; floats keep their values.  `[N, H, W]` gets a channel axis, and channels-last `[N, H, W, C]` become
        `[N, C, H, W]`.
    numbers: floats, with the values as they are.  tokens: int64, with the values as they are.

    Raises:
        ConfigError: an unknown kind.
        DataError: not numbers, no axis that counts the examples, or values that the kind cannot have.

    >>> read_inputs(np.full((2, 4, 4), 255, dtype=np.uint8), "x")[0].shape
    torch.Size([2, 1, 4, 4])
    >>> read_inputs([[1, 2]], "x", "numbers")[0].dtype
    torch.float32
    """
    check_input_kind(kind, option)
    inputs = as_tensor(values, what)
    if inputs.ndim == 0:
        raise DataError(f"{what} is a single number, but an axis that counts the examples is needed.")
    chosen = kind or input_kind(values)
    if not inputs.numel():
        return (inputs if chosen == "tokens" or inputs.is_floating_point() else inputs.float()), ()
    if chosen == "pictures":
        return _as_pictures(inputs, number_of(values), what)
    if chosen == "tokens":
        return _as_tokens(inputs, what, option, asked=kind is not None)
    return _as_numbers(inputs, number_of(values), what, option, asked=kind is not None)


def as_inputs(values: Any, what: str, kind: InputKind | None = None, option: str = "inputs") -> Tensor:
    """The inputs of `read_inputs` without its notes.

    >>> as_inputs([[1.0, 2.0]], "x").dtype
    torch.float32
    """
    return read_inputs(values, what, kind, option)[0]


def _as_pictures(inputs: Tensor, number: str, what: str) -> tuple[Tensor, tuple[str, ...]]:
    notes = []
    top = None
    if not inputs.is_floating_point() and inputs.dtype != torch.bool:
        top = _TOPS.get(number) or next((top for top in _TOPS.values() if int(inputs.max()) <= top), None)
        if top is None or int(inputs.min()) < 0:
            raise DataError(
                f"{what} holds whole numbers from {int(inputs.min())} to {int(inputs.max())}, but pictures of whole "
                "numbers have 8 bits (0 to 255) or 16 (0 to 65,535); scale them to 0 to 1 as floats."
            )
        notes.append(f"{what} is read as pictures: 0 to {top:,} becomes 0 to 1")
    flat = flat_pictures(inputs)
    if inputs.ndim == 3:
        inputs = inputs.unsqueeze(1)
    elif _channels_last(inputs):
        inputs = inputs.permute(0, 3, 1, 2)
        notes.append(f"{what} has its channels last, {list(inputs.shape[2:])} pixels each: they are moved to the front")
    if flat:
        notes.append(f"{flat} of {len(inputs)} pictures of {what} are nearly all of one value (empty, or clipped?)")
    pixels = inputs.contiguous().float() if top is not None or not inputs.is_floating_point() else inputs.contiguous()
    return (pixels if top is None else pixels / float(top)), tuple(notes)


def _as_tokens(inputs: Tensor, what: str, option: str, *, asked: bool) -> tuple[Tensor, tuple[str, ...]]:
    if not asked:
        return inputs, (f'{what} holds whole numbers, which stay tokens ({option} = "numbers" makes them features)',)
    if inputs.is_floating_point() and not bool((inputs == inputs.round()).all()):
        raise DataError(f"{what} holds numbers that are not whole, but tokens are; leave {option} out.")
    if float(inputs.min()) < 0:
        raise DataError(f"{what} holds {inputs.min().item():g}, but tokens are whole numbers from 0.")
    return inputs.long(), ()


def _as_numbers(inputs: Tensor, number: str, what: str, option: str, *, asked: bool) -> tuple[Tensor, tuple[str, ...]]:
    if inputs.is_floating_point():
        if not asked and _channels_last(inputs) and inputs.shape[3] > 1:
            shape = list(inputs.shape[1:])
            return inputs, (
                f"examples of {what} have the shape {shape}: if these are pictures with channels last, "
                f'{option} = "pictures" moves the channels to the front',
            )
        return inputs, ()
    notes = []
    low, high = int(inputs.min()), int(inputs.max())
    if number == "uint8" and not asked:
        notes.append(
            f"{what} is a table of whole numbers, {low} to {high}, and stays as it is; if its rows are pictures, "
            f'{option} = "pictures" divides them by 255'
        )
    if max(abs(low), abs(high)) > _EXACT:
        notes.append(f"{what} holds whole numbers above {_EXACT:,}, which are rounded in float32")
    return inputs.float(), tuple(notes)


def _channels_last(inputs: Tensor) -> bool:
    return inputs.ndim == 4 and inputs.shape[3] in _CHANNELS and inputs.shape[1] not in _CHANNELS


def flat_pictures(pictures: Tensor) -> int:
    """The number of pictures `[N, ...]` with one value in at least 99 of 100 places: their lowest or their highest.

    >>> flat_pictures(torch.stack([torch.zeros(8, 8), torch.rand(8, 8)]))
    1
    """
    count = 0
    if pictures.ndim < 3 or pictures[0].numel() < 16:
        return count
    for _, block in blocks_of(pictures):
        rows = block.flatten(1)
        low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
        share = torch.maximum((rows == low).double().mean(1), (rows == high).double().mean(1))
        count += int((share >= _FLAT).sum())
    return count


def as_text(values: Any) -> np.ndarray[Any, Any]:
    """An array; one of bytes is read as text in UTF-8 where it is.

    >>> as_text(np.array([b"north"]))
    array(['north'], dtype='<U5')
    """
    array = np.asarray(values)
    if array.dtype.kind != "S":
        return array
    try:
        return np.char.decode(array, "utf-8")
    except UnicodeDecodeError:
        return array
