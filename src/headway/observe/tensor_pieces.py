"""The bytes of a safetensors file, a piece at a time: tensors are written from where they lie, without a copy of all.

    file := length of the header u64 | header, JSON | the tensors' bytes, little-endian, one after another

The order of the tensors and the spaces after the header are those of the library, so that the bytes are the same.
Source: https://github.com/huggingface/safetensors, section "Format".
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from headway.protocol import wire

PIECE = 1 << 24  # bytes
ALIGNMENT = 8  # bytes, of the first tensor
NAMES: Mapping[torch.dtype, str] = {  # in the order of a file's tensors, and within one by name
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def pieces(tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The bytes of a file of these tensors, whole, and of notes beside them.

    >>> [bytes(piece)[-8:] for piece in pieces({"a": torch.zeros(2)}, {})]
    [b'0,8]}}  ', b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00']
    """
    ranks = list(NAMES)
    ordered = sorted(tensors, key=lambda name: (ranks.index(tensors[name].dtype), name))
    head: dict[str, object] = {"__metadata__": dict(notes)} if notes else {}
    place = 0
    for name in ordered:
        tensor = tensors[name]
        end = place + tensor.numel() * tensor.element_size()
        head[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    yield struct.pack("<Q", len(text)) + text
    for name in ordered:
        held = wire.raw(tensors[name])
        for start in range(0, len(held), PIECE):
            yield held[start : start + PIECE]
