"""Masks: the key stream of a cipher as integers, added to a vector in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

StreamCipher = Literal["aes", "chacha20"]
Words = NDArray[Any]

BLOCK = 1 << 18  # bytes of a mask that are made at a time, so that they stay in the cache with what they are added to
_ZEROS = memoryview(bytes(BLOCK))
_START = bytes(16)  # counter and nonce: a key makes one mask only


def word_type(bits: int) -> type[np.unsignedinteger[Any]]:
    """The unsigned integers that hold residues modulo `2^bits`: of 32 bits where these are enough, of 64 otherwise."""
    return np.uint32 if bits <= 32 else np.uint64


def mask_stream(key: bytes, count: int, word: type[np.unsignedinteger[Any]], cipher: StreamCipher = "aes") -> Words:
    """`count` words of a key's stream, `[count]`: the stream's bytes as little-endian integers.

    key: of 32 bytes.  cipher: AES-256 in counter mode from 0, or ChaCha20 from 0.

    >>> mask_stream(bytes(range(32)), 4, np.uint32).tolist()
    [3053490418, 3500099882, 1788539817, 2155294429]
    """
    stream = np.zeros(count, dtype=np.dtype(word).newbyteorder("<"))
    add_masks(stream, [key], [], cipher)
    return stream


def add_masks(
    numbers: Words, added: Sequence[bytes], subtracted: Sequence[bytes], cipher: StreamCipher = "aes"
) -> None:
    """Adds the streams of keys to numbers `[n]` in place, and subtracts others, with wrap-around.

    A word of `2^32` or `2^64` values is a multiple of every smaller power of two, so the sum modulo `2^bits` is right.
    """
    signed = [(_stream(key, cipher), np.add) for key in added] + [
        (_stream(key, cipher), np.subtract) for key in subtracted
    ]
    drawn = bytearray(BLOCK + 16)
    width = numbers.itemsize
    words = np.frombuffer(drawn, dtype=numbers.dtype, count=BLOCK // width)
    for start in range(0, len(numbers), BLOCK // width):
        part = numbers[start : start + BLOCK // width]
        zeros, mask = _ZEROS[: len(part) * width], words[: len(part)]
        for stream, operation in signed:
            stream.update_into(zeros, drawn)
            operation(part, mask, out=part)


def _stream(key: bytes, cipher: StreamCipher, start: bytes = _START) -> CipherContext:
    if cipher == "chacha20":
        return Cipher(algorithms.ChaCha20(key, start), mode=None).encryptor()
    return Cipher(algorithms.AES(key), modes.CTR(start)).encryptor()
