"""The schema of examples that are arrays of one shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from headway.core.errors import ConfigError
from headway.core.registry import Plain
from headway.data.dataset.inputs import InputKind
from headway.data.dataset.split import check_share


@dataclass(frozen=True)
class ArraySchema(Plain):
    """Examples that are arrays of one shape, such as pictures: files of NumPy arrays (.npz) with `x` and `y`.

    shape: of one input.  inputs: how `x` is read, see `headway.data.dataset.inputs.read_inputs`.
    classes: the labels in their order, as the arrays hold them; none for a regression.
    test_share, split: which of each client's examples are tested; see `headway.data.load`.

    Raises:
        ConfigError: naming what was needed and what was found.
    """

    shape: tuple[int, ...]
    kind: Literal["arrays"] = "arrays"
    inputs: InputKind | None = None
    classes: tuple[str, ...] = ()
    test_share: float = 0.2
    split: str | None = None

    def __post_init__(self) -> None:
        if any(side < 1 for side in self.shape):
            raise ConfigError(f"shape is {list(self.shape)}, but sides of 1 and more are needed.")
        if len(set(self.classes)) < len(self.classes) or len(self.classes) == 1:
            raise ConfigError(f"classes are {list(self.classes)}, but two or more different ones are needed, or none.")
        check_share(self.test_share)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self.shape

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in order."""
        return self.classes

    @property
    def features(self) -> tuple[str, ...]:
        """No names."""
        return ()

    def to_config(self) -> dict[str, Any]:
        """The section [data]."""
        config = {"kind": "arrays", "shape": list(self.shape), "classes": list(self.classes)}
        more = {"inputs": self.inputs, "split": self.split}
        return config | {"test_share": self.test_share} | {key: each for key, each in more.items() if each is not None}
