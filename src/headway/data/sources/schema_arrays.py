"""A client's own file of NumPy arrays, read under the schema that all clients of a federation share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.core.errors import DataError
from headway.data.dataset.class_names import label_name
from headway.data.dataset.inputs import as_text, read_inputs
from headway.data.dataset.targets import read_targets
from headway.data.sources.array_schema import ArraySchema
from headway.data.sources.example_pool import ExamplePool
from headway.data.sources.npz import check_pair, read_arrays
from headway.data.sources.schema_values import ValueRule


def schema_arrays(path: Path, schema: ArraySchema, client: str) -> ExamplePool:
    """The arrays `x` and `y`, or `x_train`, `y_train`, `x_test` and `y_test`, as examples of one client.

    Labels are matched with the classes of the schema by what they are, not by their order in this file.

    Raises:
        DataError: the file cannot be read, an input has another shape, or a label is none of the classes.
    """
    arrays = read_arrays(path)
    plain = "x" in arrays
    parts = [("x", "y")] if plain else [("x_train", "y_train"), ("x_test", "y_test")]
    inputs, targets, notes = [], [], list[str]()
    for x, y in parts:
        check_pair(arrays, x, y, path)
        read, more = read_inputs(arrays[x], f"{path.name}: {x!r}", schema.inputs, "data.inputs")
        if tuple(read.shape[1:]) != schema.shape:
            raise DataError(
                f"{path}: {x!r} holds examples of shape {list(read.shape[1:])}, but the schema of the federation needs "
                f"{list(schema.shape)}."
            )
        inputs.append(read)
        targets.append(_targets(arrays[y], y, schema, path, notes))
        notes += [note for note in more if note not in notes]
    if len({each.dtype for each in inputs}) > 1:
        raise DataError(f"{path}: 'x_train' holds {inputs[0].dtype} and 'x_test' {inputs[1].dtype}; make them alike.")
    tested = None if plain else torch.arange(sum(map(len, targets))) >= len(targets[0])
    return ExamplePool(
        path.stem,
        torch.cat(inputs),
        torch.cat(targets),
        len(schema.classes) or None,
        (client,) * sum(map(len, targets)),
        tested,
        description=f"arrays of {path.name}, under the schema of the federation",
        class_names=schema.classes,
        notes=tuple(notes),
    )


def _targets(values: NDArray[Any], name: str, schema: ArraySchema, path: Path, notes: list[str]) -> Tensor:
    """Class numbers in the schema's order, or values."""
    what = f"{path.name}: {name!r}"
    if not schema.classes:
        (read,), _ = read_targets({what: values}, "regression", "data.classes")
        return read
    labels = np.asarray(as_text(values))
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(
            f"{path}: {name!r} has the shape {list(labels.shape)}, but one label for each example is needed."
        )
    texts = [label_name(label).strip() for label in labels.tolist()]
    rule = ValueRule("y", schema.classes, {})
    codes, more = rule.codes(texts, lambda row: f"example {row}", f"{path}: {name!r}")
    notes += more
    return torch.from_numpy(codes)
