"""Picture files as one tensor: decoded, converted to one mode and side, with what was damaged or dropped on the way."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.core.errors import DataError
from headway.data.dataset.inputs import flat_pictures

Colour = Literal["rgb", "grey"]

_WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # Pillow's modes of grey pictures with 16 bits
_TOP = 65_535
_LISTED = 50  # damaged files that an error names
_NAMED = 3  # files that a note names


@dataclass(eq=False)
class Pictures:
    """Pictures float32 `[n, C, H, W]` in [0, 1], those of the files at `kept`, and the hash of each file's bytes."""

    pixels: Tensor
    kept: list[int]
    digests: list[bytes]
    notes: tuple[str, ...]


@dataclass(eq=False)
class _Seen:
    """Observations made while files were decoded."""

    damaged: dict[Path, str] = field(default_factory=dict)
    wide: int = 0
    highest: int = 0
    transparent: int = 0
    frames: int = 0


def read_pictures(
    files: Sequence[Path], root: Path, *, side: int | None, colour: Colour, damaged: Literal["refuse", "skip"]
) -> Pictures:
    """Decodes files: 8 bits are divided by 255, and grey pictures of 16 bits by 65,535.

    side: the pictures are resized to this many pixels a side (bilinear); needed unless all are of one size.
    damaged: whether files that cannot be read are refused, all at once, or left out.

    Raises:
        DataError: damaged files, none that can be read, or pictures of different sizes.
    """
    seen, kept, digests = _Seen(), list[int](), list[bytes]()
    store: NDArray[Any] | None = None
    for number, file in enumerate(files):
        try:
            raw = file.read_bytes()
            pixels = _decoded(raw, side, colour, seen)
        except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error) as error:
            seen.damaged[file] = _reason(error, file)
            continue
        if store is None:
            store = np.empty((len(files), *pixels.shape), dtype=np.uint8)
            first = file
        if store.shape[1:] != pixels.shape:
            raise DataError(
                f"{file} has {pixels.shape[2]} x {pixels.shape[1]} pixels, but {first.name} has "
                f"{store.shape[3]} x {store.shape[2]}; give data.side, so that all are made alike."
            )
        if pixels.dtype == np.uint16 and store.dtype == np.uint8:
            store = store.astype(np.uint16) * 257  # 8 bits on the scale of 16
        store[len(kept)] = pixels.astype(np.uint16) * 257 if pixels.dtype != store.dtype else pixels
        kept.append(number)
        digests.append(hashlib.blake2b(raw, digest_size=16).digest())
    if seen.damaged and (damaged == "refuse" or store is None):
        raise DataError(_damage(seen.damaged, root))
    assert store is not None
    values = torch.from_numpy(store[: len(kept)])
    if store.dtype == np.uint16:
        scaled = torch.from_numpy(store[: len(kept)].astype(np.float32)) / float(_TOP)
    else:
        scaled = values.contiguous().float() / 255.0
    return Pictures(scaled, kept, digests, _notes(seen, scaled, len(files), root))


def _decoded(raw: bytes, side: int | None, colour: Colour, seen: _Seen) -> NDArray[Any]:
    """One picture, uint8 or uint16 `[C, H, W]`."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(raw)) as opened:
            wide = opened.mode in _WIDE
            if opened.mode == "F":
                raise ValueError("its pixels are floats, whose range is not known; save it with 8 or 16 bits")
            clear = "A" in opened.getbands() or "transparency" in opened.info
            frames = getattr(opened, "n_frames", 1)
            picture: Any = opened.convert("F" if wide else "RGB" if colour == "rgb" else "L")
            values = np.array(opened) if wide else None
            if values is not None and (values.min() < 0 or values.max() > _TOP):
                raise ValueError(f"its pixels go up to {values.max()}, beyond the 65,535 of 16 bits")
            if side is not None and picture.size != (side, side):
                picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    seen.transparent += clear
    seen.frames += frames > 1
    if values is None:
        pixels = np.array(picture).reshape(picture.height, picture.width, 3 if colour == "rgb" else 1)
        return pixels.transpose(2, 0, 1)
    seen.wide += 1
    seen.highest = max(seen.highest, int(values.max()))
    grey = np.array(picture).round().clip(0, _TOP).astype(np.uint16)[None]
    return np.repeat(grey, 3, axis=0) if colour == "rgb" else grey


def _reason(error: Exception, file: Path) -> str:
    if not file.exists():
        return "a link to nothing"
    if isinstance(error, OSError) and "cannot identify" in str(error):
        return "empty" if file.stat().st_size == 0 else "no picture"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _damage(damaged: dict[Path, str], root: Path) -> str:
    names = [f"{file.relative_to(root)} ({why})" for file, why in damaged.items()]
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (
        f"{len(names)} picture{'s' * (len(names) != 1)} of {root} cannot be read: {', '.join(names[:_LISTED])}{more}; "
        'repair or remove them, or set data.damaged = "skip" to leave them out.'
    )


def _notes(seen: _Seen, pixels: Tensor, count: int, root: Path) -> tuple[str, ...]:
    notes = []
    if seen.damaged:
        some = [str(file.relative_to(root)) for file in seen.damaged][:_NAMED]
        more = ", ..." if len(seen.damaged) > _NAMED else ""
        notes.append(
            f"{len(seen.damaged)} of {count} pictures cannot be read and are left out: {', '.join(some)}{more}"
        )
    notes.append("pixels of 8 bits, 0 to 255, become 0 to 1" if seen.wide < count - len(seen.damaged) else "")
    if seen.wide:
        low = f"; the brightest pixel is {seen.highest:,}" if seen.highest < _TOP / 4 else ""
        notes.append(f"{seen.wide} pictures have 16 bits: 0 to 65,535 becomes 0 to 1{low}")
    if seen.transparent:
        notes.append(f"{seen.transparent} pictures have transparent pixels, which are read without transparency")
    if seen.frames:
        notes.append(f"{seen.frames} files hold several frames, of which the first is read")
    if flat := flat_pictures(pixels):
        notes.append(f"{flat} of {len(pixels)} pictures are nearly all of one value (empty, or clipped?)")
    return tuple(filter(None, notes))
