"""Image sets from a folder: the four IDX files of MNIST and its kin, or a folder of pictures for each class."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.core.errors import ConfigError, DataError
from headway.core.keys import Key
from headway.data.arrays import as_inputs
from headway.data.federated import Examples
from headway.data.pool import Pool
from headway.data.split import split
from headway.data.targets import class_count

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts it
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
_IDX_FILES = {part: (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte") for part in ("train", "t10k")}


def fashion_mnist_pool() -> Pool:
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
    return Pool("fashion-mnist", pool.inputs, pool.targets, pool.classes, central=pool.central, description="clothes")


def has_idx(folder: Path) -> bool:
    """Whether a folder holds the training images of MNIST's format."""
    return _file(folder, _IDX_FILES["train"][0]) is not None


def idx_pool(path: Path) -> Pool:
    """The files `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and, where present, their `t10k` pair.

    The files may be gzipped.  The `t10k` part is a central test set.  Pixels are scaled to [0, 1].

    Raises:
        DataError: a file is missing, damaged, or does not pair up with its labels.
    """
    train = _idx_examples(path, "train")
    central = _idx_examples(path, "t10k") if any(_file(path, name) for name in _IDX_FILES["t10k"]) else None
    parts = [train] if central is None else [train, central]
    classes = max(class_count(part.targets, str(path)) or 0 for part in parts)
    return Pool(path.name, train.inputs, train.targets, classes, central=central, description=f"images of {path}")


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


def class_folders(
    path: Path,
    *,
    key: Key,
    side: int | None = None,
    colour: Literal["rgb", "grey"] = "rgb",
    layout: Literal["class", "client/class"] = "class",
    central_share: float = 0.2,
) -> Pool:
    """A folder of pictures for each class, as LC25000 and many others come.

    A class is a folder that holds pictures; its name is the path below `path` (below the client's folder with
    layout "client/class"), and classes are numbered by sorted name.  Folders `train` and `test` directly below
    `path` are a training and a central test set; otherwise a stratified `central_share` of all pictures,
    chosen by `key`, becomes the central test set (of a "client/class" layout, none).
    Pixels are scaled to [0, 1], shape `[N, 3 or 1, side, side]`.

    side: the pictures are resized to this many pixels a side (bilinear); needed unless all are of one size.

    Raises:
        ConfigError: an unknown colour or layout, a side below 1, or a share outside [0, 1).
        DataError: no picture, one that cannot be read, or pictures of unlike size.
    """
    for option, value, known in (("colour", colour, ("rgb", "grey")), ("layout", layout, ("class", "client/class"))):
        if value not in known:
            raise ConfigError(f"{option} is {value!r}, but one of {', '.join(map(repr, known))} is needed.")
    if side is not None and (isinstance(side, bool) or not isinstance(side, int) or side < 1):
        raise ConfigError(f"side is {side!r}, but a whole number of pixels is needed.")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file())
    if not files:
        raise DataError(
            f"{path} holds no picture ({', '.join(_SUFFIXES)}) and no IDX files; put each class into a folder."
        )
    parted = layout == "class" and {file.relative_to(path).parts[0] for file in files} == {"train", "test"}
    depth = 1 if parted or layout == "client/class" else 0
    names = [_class_of(file, path, depth) for file in files]
    classes = {name: number for number, name in enumerate(sorted(set(names)))}
    targets = torch.tensor([classes[name] for name in names])
    images = Examples(as_inputs(_pictures(files, side, colour), str(path)), targets)
    description = f"pictures of {path.name}: {', '.join(classes)}"
    first = [file.relative_to(path).parts[0] for file in files]
    if layout == "client/class":
        return Pool(path.name, images.inputs, targets, len(classes), tuple(first), description=description)
    if parted:
        tested = torch.tensor([part == "test" for part in first])
        held, central = images.take((~tested).nonzero()[:, 0]), images.take(tested.nonzero()[:, 0])
    else:
        rest, chosen = split(torch.arange(len(images)), central_share, key.derive("central"), targets)
        held, central = images.take(rest), images.take(chosen)
    given = central if len(central) else None
    return Pool(path.name, held.inputs, held.targets, len(classes), central=given, description=description)


def _class_of(file: Path, path: Path, depth: int) -> str:
    """The folder that names the class, below the first `depth` folders."""
    parts = file.relative_to(path).parts[depth:-1]
    if not parts:
        raise DataError(f"the picture {file} lies in no class folder; put it into the folder of its class.")
    return "/".join(parts)


def _pictures(files: Sequence[Path], side: int | None, colour: str) -> Tensor:
    """All pictures, uint8 `[N, C, H, W]`."""
    from PIL import Image, UnidentifiedImageError

    mode, channels = ("RGB", 3) if colour == "rgb" else ("L", 1)
    store: Tensor | None = None
    for number, file in enumerate(files):
        try:
            with Image.open(file) as opened:
                picture = opened.convert(mode)
                if side is not None and picture.size != (side, side):
                    picture = picture.resize((side, side), Image.Resampling.BILINEAR)
                pixels = np.array(picture).reshape(picture.height, picture.width, channels)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
            raise DataError(f"the picture {file} cannot be read: {error}; repair or remove it.") from error
        if store is None:
            store = torch.empty((len(files), channels, *pixels.shape[:2]), dtype=torch.uint8)
        if store.shape[2:] != pixels.shape[:2]:
            raise DataError(
                f"{file} has {pixels.shape[1]} x {pixels.shape[0]} pixels, but {files[0].name} has "
                f"{store.shape[3]} x {store.shape[2]}; give side, so that all are made alike."
            )
        store[number] = torch.from_numpy(pixels).permute(2, 0, 1)
    assert store is not None
    return store
