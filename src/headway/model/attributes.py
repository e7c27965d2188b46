"""The Python attributes of a model, put back as it was made before another client uses the model.

A recurrent state, a counter or a cache that a module keeps in an attribute of itself or of its class is not part of its
parameters and buffers.  Left alone it would pass from client to client, so that a client's model depends on the data of
the clients that were trained before it in the same process.
"""

from __future__ import annotations

import inspect
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Check = Callable[[], bool]  # whether a value is as it was
Back = Callable[[], object]  # puts it back
Held = tuple[Check, Back]
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
OF_TORCH = frozenset(vars(nn.Module())) | {"forward", "train"}  # what torch itself, or the flat module, keeps there
COMPARED = 1 << 16  # numbers: larger tensors are compared by torch's count of writes alone


class Attributes:
    """The attributes of a model's own modules and their classes, as they were when it was made.

    Plain values, tensors, arrays, lists, dictionaries, sets, generators of random numbers, and objects made of them are
    put back; modules, functions and objects that show no attributes are taken as they are.  Modules of torch's own
    classes keep nothing that matters.
    """

    def __init__(self, module: nn.Module) -> None:
        seen = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
        self.seeders: list[Callable[[int], object]] = []
        self._seed: int | None = None
        self.places: list[_HeldAttribute] = []
        classes: dict[type, str] = {}
        for name, part in module.named_modules():
            if _of_torch(type(part)):
                continue
            self.places.append(_HeldAttribute(name or type(part).__name__, part, OF_TORCH, seen, self.seeders))
            for kind in type(part).__mro__:
                if not _of_torch(kind) and kind is not object:
                    classes.setdefault(kind, kind.__name__)
        for kind, name in classes.items():
            self.places.append(_HeldAttribute(name, kind, frozenset(), seen, self.seeders))

    def changed(self) -> list[str]:
        """The attributes that are not as they were, as `module.attribute`."""
        return [f"{place.name}.{attribute}" for place in self.places for attribute in place.changed()]

    def restore(self) -> None:
        """Puts back what has changed; generators are where they were seeded last."""
        for place in self.places:
            place.restore()
        if self.seeders and self._seed is not None:
            self.seed(self._seed)

    def seed(self, seed: int) -> None:
        """Seeds the generators of random numbers that the modules hold."""
        self._seed = seed
        for number, seeder in enumerate(self.seeders):
            seeder(seed + number)


class _HeldAttribute:
    """The attributes of one module, or of one class."""

    def __init__(self, name: str, owner: Any, skip: frozenset[str], seen: set[int], seeders: list[Any]) -> None:
        self.name, self.owner, self.skip = name, owner, skip
        self.is_class = isinstance(owner, type)
        self.length = len(vars(owner))
        self.values = {key: value for key, value in vars(owner).items() if self._counts(key, value)}
        held = {key: _hold(value, seen, seeders) for key, value in self.values.items()}
        self.inner = {key: inside for key, inside in held.items() if inside is not None}

    def _counts(self, key: str, value: object) -> bool:
        if key in self.skip:
            return False
        hidden = key.startswith("__") or inspect.isroutine(value) or inspect.isdatadescriptor(value)
        return not (self.is_class and hidden)

    def changed(self) -> Iterator[str]:
        now = vars(self.owner)
        for key, value in self.values.items():
            if key not in now or not _same(now[key], value) or (key in self.inner and not self.inner[key][0]()):
                yield key
        for key, value in now.items():
            if key not in self.values and self._counts(key, value):
                yield key

    def is_as_made(self) -> bool:
        """Whether nothing has changed; quick, since it is looked at before each client."""
        now = vars(self.owner)
        if len(now) != self.length:
            return next(self.changed(), None) is None
        for key, value in self.values.items():
            if (found := now.get(key, self)) is not value and not _same(found, value):
                return False
        return all(check() for check, _ in self.inner.values())

    def restore(self) -> None:
        if self.is_as_made():
            return
        for key in list(self.changed()):
            if key not in self.values:
                delattr(self.owner, key)
            elif self.is_class:
                setattr(self.owner, key, self.values[key])
            else:
                vars(self.owner)[key] = self.values[key]
            if key in self.inner:
                self.inner[key][1]()


def _of_torch(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "torch"


def _same(one: object, other: object) -> bool:
    return one is other or (type(one) is type(other) and isinstance(one, PLAIN) and one == other)


def _hold(value: Any, seen: set[int], seeders: list[Callable[[int], object]]) -> Held | None:
    """A check of whether the inside of a value has changed, which puts it back; `None` if nothing can change."""
    if isinstance(value, (*PLAIN, nn.Module, type)) or inspect.isroutine(value) or id(value) in seen:
        return None
    seen.add(id(value))
    if isinstance(value, Tensor):
        return _hold_tensor(value)
    if isinstance(value, np.ndarray):
        array = value.copy()
        return lambda: value.tobytes() == array.tobytes(), lambda: np.copyto(value, array)
    if (generator := _generator(value)) is not None:
        seeders.append(generator[2])
        return generator[:2]
    if isinstance(value, list | tuple | deque | set | frozenset | dict):
        return _hold_container(value, seen, seeders)
    if hasattr(value, "__dict__") and type(value).__module__.split(".")[0] not in ("torch", "numpy"):
        place = _HeldAttribute("", value, frozenset(), seen, seeders)
        return place.is_as_made, place.restore
    return None


def _hold_tensor(value: Tensor) -> Held:
    saved, version = value.detach().clone(), [value._version]

    def same() -> bool:
        if value._version != version[0] or value.shape != saved.shape:
            return False
        return value.numel() > COMPARED or torch.equal(value.detach().nan_to_num(), saved.nan_to_num())

    def back() -> None:
        with torch.no_grad():
            if value.shape == saved.shape:
                value.copy_(saved)
            else:
                value.data = saved.clone()
        version[0] = value._version

    return same, back


def _hold_container(value: Any, seen: set[int], seeders: list[Callable[[int], object]]) -> Held | None:
    saved = list(value.items()) if isinstance(value, dict) else list(value)
    items = [item for _, item in saved] if isinstance(value, dict) else saved
    inner = [held for item in items if (held := _hold(item, seen, seeders)) is not None]
    if isinstance(value, tuple | frozenset) and not inner:
        return None

    def same() -> bool:
        if isinstance(value, tuple | frozenset):
            return all(check() for check, _ in inner)
        if len(value) != len(saved):
            return False
        if isinstance(value, dict):
            alike = all(key in value and _same(value[key], item) for key, item in saved)
        elif isinstance(value, set):
            alike = value == set(saved)
        else:
            alike = all(_same(one, other) for one, other in zip(value, saved, strict=True))
        return alike and all(check() for check, _ in inner)

    def back() -> None:
        if not isinstance(value, tuple | frozenset):
            value.clear()
            value.extend(saved) if isinstance(value, list | deque) else value.update(saved)
        for _, put in inner:
            put()

    return same, back


def _generator(value: Any) -> tuple[Check, Back, Callable[[int], object]] | None:
    """Of a generator of random numbers: whether it is where it was, how to put it back there, and how to seed it."""
    state: Callable[[], Any]
    put: Callable[[Any], object]
    seed: Callable[[int], object]
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        state, put = (lambda: bits.state), lambda to: setattr(bits, "state", to)
        seed = lambda number: setattr(bits, "state", type(bits)(number % 2**63).state)  # noqa: E731
    elif isinstance(value, np.random.RandomState):
        state, put, seed = value.get_state, value.set_state, lambda number: value.seed(number % 2**32)
    elif isinstance(value, random.Random):
        state, put, seed = value.getstate, value.setstate, value.seed
    elif isinstance(value, torch.Generator):
        state, put, seed = value.get_state, value.set_state, lambda number: value.manual_seed(number % 2**63)
    else:
        return None
    begun: Any = state()
    return lambda: bool(_comparable(state()) == _comparable(begun)), lambda: put(begun), seed


def _comparable(state: Any) -> Any:
    """A generator's state as plain values, which compare."""
    if isinstance(state, dict):
        return {name: _comparable(value) for name, value in state.items()}
    if isinstance(state, tuple):
        return tuple(_comparable(value) for value in state)
    return state.tobytes() if isinstance(state, np.ndarray) else state.tolist() if isinstance(state, Tensor) else state
