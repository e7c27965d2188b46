"""A client's own arrays or pictures, read under the schema that all clients of a federation share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.core.errors import ConfigError, DataError
from headway.data.dataset.class_names import label_name
from headway.data.dataset.inputs import as_text, read_inputs
from headway.data.dataset.targets import read_targets
from headway.data.sources.array_schema import ArraySchema
from headway.data.sources.example_pool import ExamplePool
from headway.data.sources.folders import class_folders
from headway.data.sources.npz import check_pair, read_arrays
from headway.data.sources.pictures import Colour
from headway.data.sources.schema_values import ValueRule
from headway.numerics.keys import Key


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


def schema_folders(path: Path, schema: ArraySchema, client: str) -> ExamplePool:
    """A folder of pictures for each class as examples of one client; pictures get the side of the schema.

    Folders are matched with the classes of the schema by their names.  A folder for tests, beside one for training,
    holds the client's test part.

    Raises:
        ConfigError: the schema is not of pictures with one or three channels and as many rows as columns.
        DataError: the pictures cannot be read, or a folder is none of the classes.
    """
    shape = schema.shape
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2] or not schema.classes:
        raise ConfigError(
            f"{path} is a folder of pictures, [3, side, side] or [1, side, side], with classes, but the schema of the "
            f"federation needs inputs of shape {list(shape)} and {len(schema.classes)} classes."
        )
    colour: Colour = "rgb" if schema.shape[0] == 3 else "grey"
    side, nothing_drawn = schema.shape[1], Key.root(0)
    pool = class_folders(path, key=nothing_drawn, side=side, colour=colour, layout="class", central_share=0.0)
    assert isinstance(pool.inputs, Tensor)
    inputs, targets = [pool.inputs], [pool.targets]
    if pool.central is not None:
        inputs.append(pool.central.inputs)
        targets.append(pool.central.targets)
    names: list[str | None] = [*pool.class_names]
    codes, notes = ValueRule("class", schema.classes, {}).codes(
        names, lambda row: f"folder {row + 1}", f"{path}: the classes"
    )
    count = sum(map(len, targets))
    return replace(
        pool,
        inputs=torch.cat(inputs),
        targets=torch.from_numpy(codes)[torch.cat(targets)],
        classes=len(schema.classes),
        owners=(client,) * count,
        tested=None if pool.central is None else torch.arange(count) >= len(pool.targets),
        central=None,
        class_names=schema.classes,
        notes=(*pool.notes, *notes),
        same=None,
    )
