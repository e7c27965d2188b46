"""The selection of one tensor, the outputs, from what a model returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from headway.core.errors import ConfigError, nearest


class Selection:
    """A forward hook that takes one tensor out of what a model returns; a tensor passes as it is.

    name: a key of a dict, a field of a named tuple or dataclass, or a place in a tuple.  number: of the outputs.

    Raises:
        ConfigError: when called, if there is no such thing, or it is no tensor.
    """

    def __init__(self, name: str | int, number: torch.dtype) -> None:
        self.name, self.number = name, number

    def __call__(self, module: nn.Module, given: Any, returned: Any) -> Tensor:
        """The outputs."""
        outputs = returned if isinstance(returned, Tensor) else self._of(returned)
        if not isinstance(outputs, Tensor):
            raise ConfigError(
                f"task.output = {_toml(self.name)} is {_described(outputs)}, and the loss needs a tensor: name "
                "another, or have the model return the tensor itself."
            )
        return outputs.to(self.number) if outputs.is_floating_point() else outputs

    def _of(self, returned: Any) -> Any:
        if isinstance(returned, Mapping) and self.name in returned:
            return returned[self.name]
        if isinstance(self.name, str) and not isinstance(returned, Mapping) and hasattr(returned, self.name):
            return getattr(returned, self.name)
        if isinstance(returned, (tuple, list)) and self.name in range(-len(returned), len(returned)):
            return returned[int(self.name)]
        near = nearest(str(self.name), map(str, returned)) if isinstance(returned, Mapping) else ""
        found = f"the model returns {_described(returned)}{near}"
        raise ConfigError(f"task.output = {_toml(self.name)}, but {found}: {_remedy(returned)}.")


def check_is_tensor(returned: Any) -> Tensor:
    """The returned value, if it is a tensor.

    Raises:
        ConfigError: naming the option that selects one.
    """
    if isinstance(returned, Tensor):
        return returned
    raise ConfigError(f"the model returns {_described(returned)}, and the loss takes one tensor: {_remedy(returned)}.")


def _described(returned: Any) -> str:
    if isinstance(returned, Mapping):
        return f"a dict with the keys {', '.join(map(str, returned)) or 'of none'}"
    if isinstance(returned, (tuple, list)):
        kinds = ", ".join(_kind(part) for part in returned)
        fields = getattr(returned, "_fields", None)
        named = "" if fields is None else f" named {', '.join(fields)}"
        return f"a {'tuple' if isinstance(returned, tuple) else 'list'} of {len(returned)} ({kinds}){named}"
    return "None" if returned is None else f"a value of type {type(returned).__name__}"


def _kind(part: Any) -> str:
    return f"tensor {list(part.shape)}" if isinstance(part, Tensor) else type(part).__name__


def _remedy(returned: Any) -> str:
    """The remedy, as a line of the run file."""
    if isinstance(returned, Mapping) and returned:
        key = next((key for key, part in returned.items() if isinstance(part, Tensor)), next(iter(returned)))
        return f"name the one that is meant, such as task.output = {_toml(str(key))}"
    if isinstance(returned, (tuple, list)) and returned:
        place = next((place for place, part in enumerate(returned) if isinstance(part, Tensor)), 0)
        return f"set the place of the one that is meant, such as task.output = {place}"
    return "have the model return the tensor, or name a field of it as task.output"


def _toml(name: str | int) -> str:
    return str(name) if isinstance(name, int) else f'"{name}"'
