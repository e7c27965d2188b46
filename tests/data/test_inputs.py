"""Inputs as people keep them in arrays: pictures are scaled by their range, counts are not, and each is said."""

import numpy as np
import pytest
import torch
from mk import blobs, toml
from torch import nn

import headway as hw
from headway.core.errors import DataError
from headway.data import FederatedData, from_torch, load

R = np.random.default_rng(0)
Y = np.arange(24) % 2
CLIENT = np.arange(24) % 4
PIXELS = R.integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)


def read(tmp_path, x, **options):
    np.savez(tmp_path / "d.npz", x=x, y=Y, client=CLIENT)
    return load(tmp_path / "d.npz", test_share=0.0, **options)


@pytest.mark.parametrize(
    ("x", "options", "wanted"),
    [
        (PIXELS, {}, PIXELS.transpose(0, 3, 1, 2) / 255),
        (PIXELS.transpose(0, 3, 1, 2), {}, PIXELS.transpose(0, 3, 1, 2) / 255),
        (PIXELS[..., 0], {}, PIXELS[:, None, ..., 0] / 255),
        (PIXELS[..., 0].astype("uint16") * 257, {}, PIXELS[:, None, ..., 0] / 255),
        (PIXELS[..., 0].astype("int64"), {"inputs": "pictures"}, PIXELS[:, None, ..., 0] / 255),
        (PIXELS.astype("float32") / 255, {"inputs": "pictures"}, PIXELS.transpose(0, 3, 1, 2) / 255),
        (PIXELS.astype("float32") / 255, {}, PIXELS / 255),
        (PIXELS.reshape(24, -1), {}, PIXELS.reshape(24, -1)),
        (PIXELS.reshape(24, -1), {"inputs": "pictures"}, PIXELS.reshape(24, -1) / 255),
        (PIXELS[:, 0, 0], {}, PIXELS[:, 0, 0]),
        (PIXELS, {"inputs": "numbers"}, PIXELS),
    ],
)
def test_values_are_those_that_were_meant(tmp_path, x, options, wanted):
    data = read(tmp_path, x, **options)
    assert data.store.inputs.dtype == torch.float32
    np.testing.assert_allclose(data.store.inputs.numpy(), wanted, rtol=1e-6, atol=1e-7)
    plain = x.dtype == np.float32 and "inputs" in options
    assert plain or options.get("inputs") == "numbers" or any("'x'" in note for note in data.notes)


def test_a_table_of_counts_in_bytes_is_learned_as_well_as_in_floats(tmp_path):
    x = R.poisson(3 + 4 * Y[:, None], (24, 10))
    bytes_, floats = read(tmp_path, x.astype("uint8")), read(tmp_path, x.astype("float32"))
    assert bytes_.fingerprint() == floats.fingerprint()
    assert 'stays as it is; if its rows are pictures, data.inputs = "pictures"' in bytes_.notes[0]


@pytest.mark.parametrize("wide", ["uint8", "uint16"])
def test_bytes_beside_floats_are_refused(tmp_path, wide):
    x = PIXELS[:6]
    floats = {"a": (x.astype("float32") / 255, Y[:6]), "b": (x.transpose(0, 3, 1, 2).astype(wide), Y[:6])}
    with pytest.raises(DataError, match=rf"client 'b' holds {wide}, but the first client's inputs float32"):
        FederatedData.from_clients(floats)
    with pytest.raises(DataError, match="central test set holds"):
        FederatedData.from_clients({"a": floats["a"]}, central=floats["b"])
    with pytest.raises(DataError, match="client 'a' holds"):
        FederatedData.from_clients({"a": (*floats["a"], *floats["b"])})
    np.savez(tmp_path / "d.npz", x_train=x / 255, y_train=Y[:6], x_test=x, y_test=Y[:6], client_train=CLIENT[:6])
    with pytest.raises(DataError, match=r"'x_test' holds uint8, but d.npz: 'x_train' float64"):
        load(tmp_path / "d.npz")


def test_empty_pictures_are_mentioned(tmp_path):
    x = PIXELS.copy()
    x[3:5] = 255
    assert "2 of 24 pictures of d.npz: 'x' are nearly all of one value" in " ".join(read(tmp_path, x).notes)
    assert not [note for note in read(tmp_path, PIXELS).notes if "one value" in note]


@pytest.mark.parametrize(
    ("x", "model", "data", "sentence"),
    [
        (R.integers(0, 9, (24, 5)), 'name = "mlp"', "", 'Set data.inputs = "numbers" to make them floats'),
        (PIXELS / 255.0, 'name = "lenet"', "", 'data.inputs = "pictures" adds or moves the axis of channels'),
        (PIXELS / 255.0, 'name = "mlp"', 'inputs = "tokens"', "not whole, but tokens are; leave data.inputs out"),
        (PIXELS / 255.0, 'name = "mlp"', 'inputs = "picture"', "did you mean 'pictures'"),
        (R.integers(-9, 9, (24, 5)), 'name = "mlp"', 'inputs = "pictures"', "from -9 to 8, but pictures of whole"),
    ],
)
def test_the_sentence_names_the_option(tmp_path, headway, x, model, data, sentence):
    np.savez(tmp_path / "d.npz", x=x, y=Y, client=CLIENT)
    toml(tmp_path / "d.toml", f'source = "{tmp_path / "d.npz"}"\n{data}', model, rounds=1)
    code, _, err = headway("run", tmp_path / "d.toml")
    assert code != 0
    assert sentence in " ".join(err.split())


def test_ragged_examples_are_told_how_to_pad(tmp_path):
    x = np.empty(2, dtype=object)
    x[:] = [[1], [1, 2]]
    np.savez(tmp_path / "d.npz", x=x, y=[0, 1], client=[0, 1])
    with pytest.raises(DataError, match=r"in 'x', which are never loaded.* pad the shorter ones"):
        load(tmp_path / "d.npz")
    with pytest.raises(DataError, match=r"ragged, but .* pad the shorter ones"):
        FederatedData.from_clients({"a": ([[1.0], [1.0, 2.0]], [0, 1])})


def words(entries):
    return hw.Task(model=lambda: nn.Sequential(nn.Embedding(entries, 4), nn.Flatten(), nn.Linear(12, 2)))


def test_a_token_beyond_the_table_names_its_holder():
    x = np.zeros((6, 3), int)
    x[4, 1] = 30
    data = FederatedData.from_clients({"a": (x[:3], Y[:3]), "b": (x[3:], Y[3:6])})
    with pytest.raises(
        DataError, match="example 4 of client 'b' has the token 30, but the model's table has 10 entries"
    ):
        hw.Run(hw.recipes.fedavg(), data, words(10), rounds=1)
    hw.Run(hw.recipes.fedavg(), data, words(31), rounds=1).close()
    floats = FederatedData.from_clients({"a": (x[:3] * 1.0, Y[:3])})
    with pytest.raises(hw.ConfigError, match=r'set data.inputs = "tokens"'):
        hw.Run(hw.recipes.fedavg(), floats, words(31), rounds=1)


def test_text_ids_are_kept_as_written_and_near_equal_ones_are_said(tmp_path):
    ids = np.array(["007", "7", " 7", "North", "north "])[np.arange(20) % 5]
    x, y = blobs(n=20)
    np.savez(tmp_path / "d.npz", x=x, y=y, client=ids)
    data = load(tmp_path / "d.npz")
    assert set(data.clients) == set(ids.tolist())
    assert "clients of their own: ' 7', '007', '7'; 'North', 'north '" in data.notes[0]


class Noisy(torch.utils.data.Dataset):
    def __init__(self, draw):
        self.draw = draw

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return torch.full((4,), float(i % 2)) + self.draw(), i % 2


@pytest.mark.parametrize(
    "draw", [lambda: torch.randn(4), lambda: torch.from_numpy(np.random.rand(4)), lambda: __import__("random").random()]
)
def test_a_random_transform_follows_from_the_key_and_is_said(draw):
    def data(key=0):
        return from_torch(Noisy(draw), key=key, partition={"kind": "iid"}, clients=4)

    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first = data()
    assert torch.equal(torch.rand(1), expected)  # the caller's generators are left as they were
    assert first.fingerprint() == data().fingerprint() != data(1).fingerprint()
    assert "a random transform): each was drawn once, by the key" in first.notes[0]


def test_a_transform_that_no_seed_reaches_is_said_and_a_plain_one_is_not():
    own = np.random.default_rng()
    data = from_torch(Noisy(own.random), key=0, partition={"kind": "iid"}, clients=4)
    assert "even with the same seeds, so another run has other data" in data.notes[0]
    plain = from_torch(Noisy(lambda: 0.0), key=0, partition={"kind": "iid"}, clients=4)
    assert not [note for note in plain.notes if "read again" in note]
