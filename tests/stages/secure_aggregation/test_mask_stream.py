"""Masks: known answers, wrap-around, and that what is masked looks like uniform numbers."""

import numpy as np
import pytest

from headway.stages.secure_aggregation import mask_stream
from headway.stages.secure_aggregation.mask_stream import add_masks, word_type

KEYS = [bytes([number]) * 32 for number in range(5)]


def test_aes_256_in_counter_mode_of_nist_sp_800_38a_f_5_5():
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    plain = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    cipher = bytes.fromhex(
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )
    start = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    assert mask_stream._stream(key, "aes", start).update(plain) == cipher


def test_chacha20_of_rfc_8439():
    """Appendix A.1, test vector 1: the key and the nonce are zero."""
    first = mask_stream.mask_stream(bytes(32), 4, np.uint32, "chacha20")
    assert first.tobytes() == bytes.fromhex("76b8e0ada0f13d90405d6ae55386bd28")


def test_the_first_words_of_a_mask():
    words = [3053490418, 3500099882, 1788539817, 2155294429]
    assert mask_stream.mask_stream(bytes(range(32)), 4, np.uint32).tolist() == words
    wide = mask_stream.mask_stream(bytes(range(32)), 2, np.uint64).tolist()
    assert wide == [words[0] + (words[1] << 32), words[2] + (words[3] << 32)]


@pytest.mark.parametrize("cipher", ["aes", "chacha20"])
@pytest.mark.parametrize("word", [np.uint32, np.uint64])
@pytest.mark.parametrize("count", [0, 1, 7, mask_stream.BLOCK // 8, mask_stream.BLOCK // 4 + 3])
def test_masks_are_the_streams_added_with_wrap_around(cipher, word, count):
    numbers = np.arange(count, dtype=word)
    wanted = numbers.copy()
    for key in KEYS[:3]:
        wanted += mask_stream.mask_stream(key, count, word, cipher)
    for key in KEYS[3:]:
        wanted -= mask_stream.mask_stream(key, count, word, cipher)
    add_masks(numbers, KEYS[:3], KEYS[3:], cipher)
    assert np.array_equal(numbers, wanted)
    add_masks(numbers, KEYS[3:], KEYS[:3], cipher)
    assert np.array_equal(numbers, np.arange(count, dtype=word))


def test_a_stream_is_the_same_in_one_block_and_in_many():
    long = mask_stream.mask_stream(KEYS[1], 3 * mask_stream.BLOCK // 4, np.uint32)
    assert np.array_equal(long[:100], mask_stream.mask_stream(KEYS[1], 100, np.uint32))
    assert len(np.unique(long)) > 0.99 * len(long)


@pytest.mark.parametrize(("bits", "word"), [(2, np.uint32), (32, np.uint32), (33, np.uint64), (62, np.uint64)])
def test_the_words_of_a_modulus(bits, word):
    assert word_type(bits) is word


@pytest.mark.parametrize("bits", [7, 23, 32, 40])
def test_masked_constants_are_uniform(bits):
    """Chi-squared over 256 classes of the highest bits, and of the lowest, at 6 standard deviations."""
    numbers = np.full(1 << 16, 5, dtype=word_type(bits))
    add_masks(numbers, KEYS[:2], KEYS[2:3])
    values = numbers & ((1 << bits) - 1)
    classes = 1 << min(bits, 8)
    for part in (values >> (bits - min(bits, 8)), values % classes):
        counts = np.bincount(part.astype(np.int64), minlength=classes)
        expected = len(values) / classes
        squared = ((counts - expected) ** 2 / expected).sum()
        assert abs(squared - (classes - 1)) < 6 * (2 * (classes - 1)) ** 0.5
