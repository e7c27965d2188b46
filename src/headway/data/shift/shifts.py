"""Shifts: differences between clients beyond the partition, of features or of labels.

A shift happens after the partition, to a client's training and test examples alike.  The central test set, which
no client owns, is never changed: it stays what the data were before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from headway.core.errors import ConfigError
from headway.core.plugins import NamedRegistry
from headway.core.registry import build, check_rebuildable
from headway.data.dataset.examples import Examples
from headway.data.dataset.federated import FederatedData
from headway.data.shift.image_shifts import Colour, Noise, Rotation, Stain
from headway.data.shift.shifting import Move, Shift
from headway.data.shift.table_shifts import Affine, Labels
from headway.numerics.keys import Key

ShiftLike = Shift | Mapping[str, Any]


def _of_kind(name: str | None, cls: Any) -> tuple[str, type[Shift]]:
    if not (isinstance(cls, type) and issubclass(cls, Shift) and isinstance(getattr(cls, "kind", None), str)):
        raise ConfigError(
            f"a shift is a subclass of headway.data.Shift with a kind, which is its name in run files, found {cls!r}."
        )
    check_rebuildable(cls, f"the shift {cls.kind!r}")
    return cls.kind, cls


SHIFTS: NamedRegistry[type[Shift]] = NamedRegistry("shift", "headway.shifts", _of_kind)
register_shift = SHIFTS.register
for _cls in (Noise, Rotation, Colour, Stain, Affine, Labels):
    register_shift(_cls)


def shift(kind: str, **numbers: Any) -> Shift:
    """A shift from its name and numbers.

    Raises:
        ConfigError: an unknown kind or number, or one of a wrong type or out of range.

    >>> shift("noise", level=1)
    Noise(level=1.0)
    """
    if kind not in SHIFTS:
        raise ConfigError(f"there is no shift {kind!r}{SHIFTS.near(str(kind))}.")
    cls = SHIFTS[kind]
    try:
        return build(cls, numbers)
    except ConfigError as error:  # the class is called otherwise than what the user wrote
        text = str(error).replace(f"{cls.__name__}.", f"the shift {kind!r}: ", 1)
        raise ConfigError(text.replace(f"{cls.__name__} ", f"the shift {kind!r} ", 1)) from error


def shifts(given: ShiftLike | Sequence[ShiftLike] | None) -> tuple[Shift, ...]:
    """The shifts that a mapping such as `{"kind": "noise", "level": 0.1}`, or a list of them, describes.

    Raises:
        ConfigError: a malformed one.
    """
    listed = list(given) if isinstance(given, list | tuple) else [] if given is None else [given]
    return tuple(map(_one, listed))


def _one(given: Any) -> Shift:
    if isinstance(given, Shift):
        return given
    if not isinstance(given, Mapping) or "kind" not in given:
        example = '{"kind": "rotation"}'
        raise ConfigError(f"the shift is {given!r}, but a table with a 'kind' is needed, such as {example}.")
    return shift(**given)


def shifted(data: FederatedData, given: ShiftLike | Sequence[ShiftLike] | None, *, key: Key | int = 0) -> FederatedData:
    """The same clients with shifted examples; several shifts happen one after another, in the order given.

    The data that were given stay as they are, and so does the central test set.  `shifts` of the result describes
    the change of each client in words.

    Raises:
        ConfigError: a malformed shift.
        DataError: the data cannot be shifted like this.

    >>> data = FederatedData.from_clients({"a": ([[0.5]], [0]), "b": ([[2.0]], [1])})
    >>> swapped = shifted(data, {"kind": "labels", "share": 1.0})
    >>> swapped.store.targets.tolist(), swapped.shifts["a"]
    ([1, 0], ('labels 0 and 1 swapped',))
    """
    key = Key.of(key, "data")
    for place, rule in enumerate(shifts(given)):
        moves = rule.moves(data, key.derive("shift", place))
        if moves:
            data = _moved(data, moves)
    return data


def _moved(data: FederatedData, moves: Mapping[str, Move]) -> FederatedData:
    """The data after each client's move, in a store of their own."""
    parts = {"inputs": data.store.inputs, "targets": data.store.targets}
    for name in {move.on for move in moves.values()}:
        parts[name] = parts[name].clone()
    summaries = dict(data.shifts)
    for client, move in moves.items():
        rows = torch.cat([data.train[client], data.test[client]])
        parts[move.on][rows] = _as_stored(move, parts[move.on][rows])
        summaries[client] = (*summaries.get(client, ()), move.summary)
    return replace(data, store=Examples(parts["inputs"], parts["targets"]), shifts=summaries)


def _as_stored(move: Move, values: Tensor) -> Tensor:
    """The move of some examples; bytes are moved as intensities 0..1, and rounded to bytes again."""
    if values.dtype != torch.uint8 or move.on == "targets":
        return move.apply(values)
    return (move.apply(values.float() / 255.0) * 255.0).round().clamp(0, 255).to(torch.uint8)
