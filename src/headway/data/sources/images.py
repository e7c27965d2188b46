"""Image sets in the four IDX files of MNIST and its kin."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from headway.core.errors import DataError
from headway.data.dataset.examples import Examples
from headway.data.dataset.inputs import as_inputs
from headway.data.dataset.targets import class_count
from headway.data.sources.example_pool import ExamplePool

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts it
_IDX_FILES = {part: (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte") for part in ("train", "t10k")}


def fashion_mnist_pool() -> ExamplePool:
    """Fashion-MNIST as Debian installs it: 60,000 images, and the 10,000 of its test part as a central test set.

    Pixels are scaled to [0, 1], shape `[N, 1, 28, 28]`.

    Raises:
        DataError: the package is not installed.
    """
    if not has_idx(FASHION_MNIST):
        raise DataError(
            "'fashion-mnist' reads the files of the Debian package dataset-fashion-mnist, which is not installed: "
            "apt install dataset-fashion-mnist, or give a folder that holds its four files as the source."
        )
    pool = idx_pool(FASHION_MNIST)
    return replace(pool, name="fashion-mnist", description="clothes")


def has_idx(folder: Path) -> bool:
    """Whether a folder holds the training images of MNIST's format."""
    return _file(folder, _IDX_FILES["train"][0]) is not None


def idx_pool(path: Path) -> ExamplePool:
    """The files `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and, where present, their `t10k` pair.

    The files may be gzipped.  The `t10k` part is a central test set.  Pixels are scaled to [0, 1].

    Raises:
        DataError: a file is missing, damaged, or does not pair up with its labels.
    """
    train = _idx_examples(path, "train")
    central = _idx_examples(path, "t10k") if any(_file(path, name) for name in _IDX_FILES["t10k"]) else None
    parts = [train] if central is None else [train, central]
    classes = max(class_count(part.targets, str(path)) or 0 for part in parts)
    return ExamplePool(
        path.name,
        train.inputs,
        train.targets,
        classes,
        central=central,
        description=f"images of {path}",
        notes=("pixels of 8 bits, 0 to 255, become 0 to 1",),
    )


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _idx_examples(folder: Path, part: str) -> Examples:
    images, labels = (_idx(folder, name, axes) for name, axes in zip(_IDX_FILES[part], (3, 1), strict=True))
    if len(images) != len(labels) or not len(images):
        raise DataError(f"{folder}: the {part} part has {len(images)} images and {len(labels)} labels; one each.")
    return Examples(as_inputs(images, str(folder)), torch.from_numpy(labels.astype(np.int64)))


def _idx(folder: Path, name: str, axes: int) -> NDArray[np.uint8]:
    """The bytes of one IDX file as an array of `axes` axes."""
    path = _file(folder, name)
    if path is None:
        raise DataError(f"{folder} has no file {name} or {name}.gz; it needs all files of the data set.")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    head = 4 + 4 * axes
    shape = struct.unpack(f">{axes}I", raw[4:head]) if len(raw) >= head else ()
    if raw[:4] != bytes((0, 0, 8, axes)) or len(raw) != head + int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"{path} is not an IDX file of bytes with {axes} axes, or is cut short; fetch it again.")
    return np.frombuffer(raw, np.uint8, offset=head).reshape(shape)
