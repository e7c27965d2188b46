"""Pictures of inputs as inline SVG: each input is a small PNG inside it, so that nothing is loaded."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import torch
from markupsafe import Markup
from torch import Tensor

from headway.reports.page.charts import frame, join, short, text

CELL, GAP, LINE, HEAD, SIDE = 96, 14, 24, 36, 96
COLOURS_OF = {1: 0, 3: 2}  # PNG's colour type by the number of channels


def is_picture(shape: Sequence[int]) -> bool:
    """Whether an input is a picture `[channels, height, width]` of one channel or three.

    >>> is_picture((1, 28, 28)), is_picture((35,))
    (True, False)
    """
    return len(shape) == 3 and shape[0] in COLOURS_OF and min(shape[1:]) >= 4


def png(picture: Tensor, low: float, high: float) -> bytes:
    """The PNG of a picture `[C, H, W]`, `low` being black and `high` white.

    Reference: the format's specification, ISO/IEC 15948; 8 bits a channel, no filter.
    """
    channels, height, width = picture.shape
    scaled = ((picture.double().nan_to_num(low, high, low) - low) / (high - low)).clamp(0, 1)
    rows = (scaled * 255).round().to(torch.uint8).permute(1, 2, 0).reshape(height, width * channels).numpy()
    lines = b"".join(b"\x00" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, 8, COLOURS_OF[channels], 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def picture_grid(
    title: str,
    rows: Sequence[tuple[str, Sequence[Tensor | None]]],
    columns: Sequence[str],
    captions: Sequence[Sequence[str]],
    span: tuple[float, float],
) -> Markup:
    """A row of pictures for each name, a column for each item.

    rows: names, and a picture `[C, H, W]`, or nothing, for each column.  captions: under each picture, by row.
    span: the values that are black and white.
    """
    step = CELL + GAP
    width = SIDE + step * len(columns)
    line = CELL + LINE
    parts = []
    for k, name in enumerate(columns):
        for place, words in enumerate(name.split("\n")):
            parts.append(text(SIDE + step * k + CELL / 2, 14 + 14 * place, short(words, 15), "small", "middle"))
    for place, ((name, pictures), under) in enumerate(zip(rows, captions, strict=True)):
        top = HEAD + place * line
        for k, words in enumerate(name.split("\n")):
            parts.append(text(SIDE - 10, top + CELL / 2 + 14 * k, words, "small", "end"))
        for k, picture in enumerate(pictures):
            x = SIDE + step * k
            if picture is None:
                parts.append(text(x + CELL / 2, top + CELL / 2, "nothing", "tick", "middle"))
                continue
            parts.append(
                _image(picture, span, x, top, f"{', '.join(columns[k].splitlines())}: {' '.join(name.split())}")
            )
            parts.append(text(x + CELL / 2, top + CELL + 14, under[k], "tick", "middle"))
    height = HEAD + line * len(rows) + 4
    size = Markup(' width="{:.0f}" height="{:.0f}"').format(width, height)
    return frame(title, join(parts), width, height, size, "natural")


def _image(picture: Tensor, span: tuple[float, float], x: float, y: float, label: str) -> Markup:
    data = base64.b64encode(png(picture, *span)).decode()
    return Markup(
        '<image x="{:.0f}" y="{:.0f}" width="{}" height="{}" image-rendering="pixelated" '
        'href="data:image/png;base64,{}"><title>{}</title></image>'
    ).format(x, y, CELL, CELL, data, label)
