"""Arrays of several clients under one schema."""

import numpy as np
import pytest

from headway.core.errors import DataError
from headway.data.sources.data_schema import schema_of
from headway.data.sources.schema_loading import load_with_schema

SCHEMA = schema_of({"kind": "arrays", "shape": [3], "classes": ["0", "2", "7"], "test_share": 0.0})


def read(path, schema=SCHEMA, **arrays):
    np.savez(path, **arrays)
    return load_with_schema(path, schema, "a")


def test_a_label_is_the_class_of_its_name_and_not_its_place_in_the_file(tmp_path):
    data = read(tmp_path / "a.npz", x=np.zeros((3, 3)), y=np.array([2, 7, 7]))
    assert data.store.targets.tolist() == [1, 2, 2]
    assert data.classes == 3
    assert read(tmp_path / "b.npz", x=np.zeros((2, 3)), y=np.array(["2", "0"])).store.targets.tolist() == [1, 0]


def test_parts_that_the_file_states_stay(tmp_path):
    parts = {"x_train": np.zeros((3, 3)), "y_train": [0, 2, 7], "x_test": np.ones((2, 3)), "y_test": [7, 0]}
    data = read(tmp_path / "a.npz", **parts)
    assert data.test_of("a").targets.tolist() == [2, 0]
    assert data.train_of("a").targets.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("arrays", "needed"),
    [
        ({"x": np.zeros((2, 4)), "y": [0, 2]}, r"shape \[4\], but .* needs \[3\]"),
        ({"x": np.zeros((2, 3)), "y": [0, 1]}, "'1' in example 1, but .* one of '0', '2', '7'"),
        ({"x": np.zeros((2, 3)), "y": np.zeros((2, 2))}, "one label for each example"),
        ({"x": np.zeros((2, 3))}, "no array 'y'"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, needed):
    with pytest.raises(DataError, match=needed):
        read(tmp_path / "a.npz", **arrays)


def test_values_to_predict_stay_values(tmp_path):
    schema = schema_of({"kind": "arrays", "shape": [3], "test_share": 0.0})
    data = read(tmp_path / "a.npz", schema, x=np.zeros((2, 3)), y=np.array([1, 4]))
    assert data.classes is None
    assert data.store.targets.tolist() == [1.0, 4.0]
