"""The cryptographic stream: known answers, and the distributions that are drawn from it."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from headway.numerics.keys import Key
from headway.numerics.secure_random import AT_A_TIME, SINGLES, SecureStream, normal, normals, single_normals

KEY = Key.root(5).derive("secure random")


def stream(*parts) -> SecureStream:
    return SecureStream(KEY.derive(*parts))


def test_known_answers_of_the_bit_stream():
    # NIST SP 800-38A, F.5.5: its counter block is encrypted as the first of its stream
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plain = bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")
    cipher = Cipher(algorithms.AES256(key), modes.CTR(counter)).encryptor()
    assert cipher.update(plain).hex() == "601ec313775789a5b7a7f504bbf3d228"

    first = SecureStream(Key(bytes(range(32)))).words(2).view("<u4").tolist()
    assert first == [3053490418, 3500099882, 1788539817, 2155294429]


def test_a_stream_goes_on_where_it_stopped():
    whole, parts = stream("x"), stream("x")
    assert whole.bytes(64).tobytes() == parts.bytes(16).tobytes() + parts.bytes(48).tobytes()


def test_owners_and_keys_have_streams_of_their_own():
    keys = [KEY, KEY.owned("a"), KEY.owned("b"), KEY.derive("c")]
    drawn = [SecureStream(key).words(4).tolist() for key in keys]
    assert all(a != b for a, b in itertools.combinations(drawn, 2))
    assert drawn[1] == SecureStream(KEY.owned("a")).words(4).tolist()


def test_keys_of_the_system_differ():
    assert Key.system() != Key.system()
    assert len(Key.system().secret) == 32
    assert Key.system().secret.hex() not in repr(Key.system())


def test_uniform_and_gaussian_numbers_have_their_distributions():
    uniform, gaussian = stream("u").uniform(200_000).numpy(), stream("g").gaussian(300_001).numpy()
    assert len(gaussian) == 300_001
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    assert stats.kstest(gaussian, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(gaussian[:-1], gaussian[1:])[0, 1]) < 0.01


def test_integers_below_a_limit_are_uniform():
    drawn = stream("b").below(7, 70_000)
    assert stats.chisquare(np.bincount(drawn, minlength=7)).pvalue > 1e-3
    assert set(stream("one").below(1, 9).tolist()) == {0}
    assert int(stream("big").below((1 << 61) + 1, 1000).max()) < (1 << 61) + 1


@pytest.mark.parametrize("scale", [1, 2, 7])
def test_the_discrete_distributions_are_exact(scale):
    gaussian = stream("dg", scale).discrete_gaussian(scale, 120_000).numpy()
    laplace = stream("dl", scale).discrete_laplace(scale, 120_000)
    for drawn, log in ((gaussian, lambda x: -(x**2) / (2 * scale**2)), (laplace, lambda x: -abs(x) / scale)):
        places = np.arange(-60 * scale, 60 * scale + 1)
        chances = np.exp(log(places.astype(float)))
        chances /= chances.sum()
        often = chances * len(drawn) > 20
        counts = np.array([(drawn == place).sum() for place in places[often]])
        rest = len(drawn) - counts.sum()
        expected = np.append(chances[often], chances[~often].sum()) * len(drawn)
        assert stats.chisquare(np.append(counts, rest), expected).pvalue > 1e-3


def test_a_wide_discrete_gaussian_is_a_gaussian():
    scale = (1 << 24) + 12345
    drawn = stream("wide").discrete_gaussian(scale, 100_000).double() / scale
    assert stats.kstest(drawn.numpy(), "norm").pvalue > 1e-3


def test_nothing_is_drawn_where_nothing_is_asked_for():
    assert stream("none").gaussian(0).shape == (0,)
    assert stream("none").discrete_gaussian(3, 0).shape == (0,)
    assert stream("none").gaussian(1).dtype == torch.float64
    assert math.isfinite(float(stream("none").gaussian(1)))


@pytest.mark.parametrize("count", [0, 1, 7, AT_A_TIME + 3])
def test_many_keys_draw_as_each_of_them_alone(count):
    keys = KEY.for_each("many", names=("a", "b", "c"))
    together = normals(keys, count)
    assert together.shape == (3, count)
    assert all(torch.equal(together[place], normal(keys[place], count)) for place in range(3))
    assert torch.equal(normals(keys[1], count), together[1])
    assert normals(keys[:0], count).shape == (0, count)


def test_numbers_in_single_precision_have_the_normal_distribution():
    drawn = single_normals(KEY.derive("single"), 400_000)
    assert drawn.dtype == torch.float32
    assert stats.kstest(drawn.numpy(), "norm").pvalue > 1e-4
    pairs = drawn.view(2, -1) if len(drawn) <= 2 * SINGLES else drawn[:SINGLES].view(2, -1)
    assert abs(float(torch.corrcoef(pairs)[0, 1])) < 0.03
    assert abs(float(torch.corrcoef(pairs.square())[0, 1])) < 0.03
    tail = float((drawn.abs() > 3).double().mean())
    assert tail == pytest.approx(2 * stats.norm.sf(3), rel=0.15)


@pytest.mark.parametrize("count", [0, 1, 7, SINGLES, SINGLES + 3])
def test_many_keys_draw_single_numbers_as_each_of_them_alone(count):
    keys = KEY.for_each("lanes", names=("a", "b", "c"))
    drawn = single_normals(keys, count)
    assert drawn.shape == (3, count)
    for row, key in zip(drawn, keys.each(), strict=True):
        assert torch.equal(row, single_normals(key, count))
