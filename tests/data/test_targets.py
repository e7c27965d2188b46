"""Targets as people keep them in arrays: understood, named and said, or refused with what to do."""

import numpy as np
import pytest
import torch
from mk import blobs, toml
from torch import nn

import headway as hw
from headway.core.errors import DataError
from headway.data import FederatedData, load

X, Y = blobs(k=4)
CLIENT = np.arange(len(Y)) % 6


def saved(tmp_path, y, x=X, **more):
    np.savez(tmp_path / "d.npz", x=x, y=y, client=CLIENT[: len(x)], **more)
    return tmp_path / "d.npz"


@pytest.mark.parametrize(
    ("y", "classes", "names"),
    [
        (np.array([3, 7, 100, 50_000])[Y], 4, ("3", "7", "100", "50000")),
        (np.array([0, 0, 255, 255])[Y], 2, ("0", "255")),
        (np.array([10**12, 5, 6, 7])[Y], 4, ("5", "6", "7", "1000000000000")),
        (np.array(["cat", "dog", "eel", "fox"])[Y], 4, ("cat", "dog", "eel", "fox")),
        (np.array([b"cat", b"dog", b"eel", b"fox"])[Y][:, None], 4, ("cat", "dog", "eel", "fox")),
        (Y > 1, 2, ("False", "True")),
        (Y + 1, 5, ()),
        (Y.astype("uint16"), 4, ()),
        (Y[:, None], 4, ()),
        (np.eye(4, dtype="float32")[Y], 4, ()),
        (np.eye(4, dtype=int)[Y], 4, ()),
        (np.eye(4, dtype=bool)[Y], 4, ()),
    ],
)
def test_classes_of_any_form_are_numbered_from_zero(tmp_path, y, classes, names):
    data = load(saved(tmp_path, y), test_share=0.0)
    assert (data.classes, data.class_names) == (classes, names)
    rule = {k: int(v) for k, v in zip(Y, data.store.targets, strict=True)}
    assert [rule[k] for k in Y] == data.store.targets.tolist()  # one class, one number
    if names == ("3", "7", "100", "50000"):
        assert "the labels 3, 7, 100, 50000 are the classes 0 to 3" in data.notes[0]
    if y.ndim == 2 and y.shape[1] == 4:
        assert "is one-hot, and is read as 4 classes" in data.notes[0]


def test_training_and_test_arrays_share_their_classes(tmp_path):
    path = tmp_path / "d.npz"
    labels = np.array([3, 7, 100, 50_000])
    np.savez(path, x_train=X[:99], y_train=labels[Y[:99]], client_train=CLIENT[:99], x_test=X[:2], y_test=[7, 50_000])
    assert load(path).central.targets.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        (Y - 1, "label -1, but classes are numbered from 0. Where it marks examples without a label"),
        (np.arange(len(Y)) * 3, 'too many to be classes: set data.task = "regression"'),
        (np.zeros(len(Y), int), "is 0 in every example; 2 classes are needed"),
        (np.array(["", "a", "b", "c"])[Y], "has empty texts"),
    ],
)
def test_what_cannot_be_classes_is_refused(tmp_path, y, sentence):
    with pytest.raises(DataError, match=sentence):
        load(saved(tmp_path, y))


def test_floats_that_look_like_classes_are_said_and_can_be_made_classes(tmp_path):
    path = saved(tmp_path, Y.astype("float32"))
    data = load(path)
    assert data.classes is None
    assert (
        'whole numbers as floats (0, 1, 2, 3), read as values to predict; data.task = "classification"' in data.notes[0]
    )
    assert load(path, task="classification").classes == 4
    assert load(saved(tmp_path, np.arange(len(Y)) * 3), task="regression").store.targets.dtype == torch.float32
    with pytest.raises(DataError, match="not whole, but classes are"):
        load(saved(tmp_path, Y + 0.5), task="classification")
    with pytest.raises(hw.ConfigError, match="did you mean 'classification'"):
        load(path, task="clasification")


@pytest.mark.parametrize("number", [int, "float32", bool])
def test_zeros_and_ones_for_each_label_are_several_labels(tmp_path, headway, number):
    y = (X @ np.random.default_rng(0).normal(size=(10, 8)) > 0.5).astype(number)
    path = saved(tmp_path, y)
    data = load(path)
    assert (data.classes, data.multi_label) == (None, True)
    toml(tmp_path / "m.toml", f'source = "{path}"', rounds=1)
    code, out, err = headway("run", tmp_path / "m.toml")
    assert code == 0, err
    assert "labels  8 per example, each 0 or 1" in out
    assert "accuracy" in out


def test_values_for_each_example_get_as_many_outputs(tmp_path, headway):
    toml(tmp_path / "r.toml", f'source = "{saved(tmp_path, X[:, :3])}"', rounds=1)
    code, out, err = headway("run", tmp_path / "r.toml")
    assert code == 0, err
    assert "targets values from" in out
    assert ", 3 per example" in out


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        (np.where(Y > 2, -1.0, Y > 1), "needs targets from 0 to 1, but example .* of client 'client-.' has -1"),
        (np.where(Y > 2, 5.0, Y > 1), "has 5; leave out examples without a label"),
        (np.where(np.eye(4)[Y] + np.eye(4)[Y - 1] > 0, 1.0, -1.0), "has -1"),
        (Y, 'has .*; .* or use the loss "cross_entropy" for classes'),
    ],
)
def test_a_target_that_a_binary_loss_cannot_mean_is_refused(tmp_path, headway, y, sentence):
    path = saved(tmp_path, y.astype("int64") if y.ndim == 1 and y.max() == 3 else y)
    toml(tmp_path / "b.toml", f'source = "{path}"', task='loss = "binary_cross_entropy"')
    code, _, err = headway("run", tmp_path / "b.toml")
    assert code != 0
    assert __import__("re").search(sentence, " ".join(err.split())), err


@pytest.mark.parametrize("outputs", [3, 6])
def test_outputs_and_classes_must_agree(tmp_path, outputs):
    data = FederatedData.from_clients({"a": (X, Y)})
    task = hw.Task(model=lambda: nn.Linear(10, outputs))
    if outputs == 3:
        with pytest.raises(DataError, match=r"3 outputs, but .* class 3, numbered from 0; give the model 4 outputs"):
            hw.Run(hw.recipes.fedavg(), data, task, rounds=1)
    else:
        run = hw.Run(hw.recipes.fedavg(), data, task, rounds=1)
        assert run.data.notes == ("the model has 6 outputs, and the data 4 classes: the other outputs never are right",)
        run.close()


def test_python_data_keep_their_labels_and_say_what_is_odd():
    data = FederatedData.from_clients({"a": (X, np.array([3, 7, 100, 500])[Y])})
    assert data.classes == 501
    assert "4 of the classes 0 to 500 occur (3, 7, 100, 500)" in data.notes[0]
    assert "one-hot; give the class numbers" in FederatedData.from_clients({"a": (X, np.eye(4)[Y])}).notes[0]
    assert "as floats (0, 1, 2, 3)" in FederatedData.from_clients({"a": (X, Y * 1.0)}).notes[0]


def test_a_class_without_a_test_example_is_in_the_header(tmp_path, headway):
    toml(tmp_path / "s.toml", f'source = "{saved(tmp_path, np.where(np.arange(240) < 239, Y % 2, 2))}"', rounds=1)
    _, out, _ = headway("run", tmp_path / "s.toml")
    assert "2 (1); no test example of 2" in out


def test_a_mapped_folder_reads_its_targets_by_the_same_rule(tmp_path):
    for name, array in (("x", X), ("y", np.array([3, 7, 100, 50_000])[Y]), ("client", np.sort(CLIENT))):
        np.save(tmp_path / f"{name}.npy", array)
    data = load(tmp_path)
    assert (data.classes, data.class_names) == (4, ("3", "7", "100", "50000"))
    np.save(tmp_path / "y.npy", np.arange(len(Y)) * 3)
    with pytest.raises(DataError, match=r"too many to be classes: set data\.task"):
        load(tmp_path)
    assert load(tmp_path, task="regression").classes is None
