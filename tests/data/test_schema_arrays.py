"""Arrays of several clients under one schema."""

import numpy as np
import pytest
from PIL import Image

from headway.core.errors import ConfigError, DataError
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


def pictures(folder, **grey):
    """A picture of 4 x 4 of the given grey in each folder."""
    for name, level in grey.items():
        place = folder / name.replace("__", "/")
        place.mkdir(parents=True)
        for number in range(2):
            Image.fromarray(np.full((4, 4), level, np.uint8)).save(place / f"{number}.png")
    return folder


PICTURES = schema_of(
    {"kind": "arrays", "shape": [1, 4, 4], "classes": ["normal", "benign", "tumour"], "test_share": 0.0}
)


def test_folders_of_pictures_are_classes_by_their_names(tmp_path):
    data = load_with_schema(pictures(tmp_path / "a", tumour=255, benign=51), PICTURES, "a")
    assert {
        (round(float(x.mean()), 1), int(y)) for x, y in zip(data.store.inputs, data.store.targets, strict=True)
    } == {
        (1.0, 2),
        (0.2, 1),
    }
    assert data.class_names == ("normal", "benign", "tumour")
    parts = pictures(tmp_path / "b", train__tumour=255, train__normal=0, test__normal=0)
    data = load_with_schema(parts, PICTURES, "a")
    assert data.test_of("a").targets.tolist() == [0, 0]
    assert sorted(data.train_of("a").targets.tolist()) == [0, 0, 2, 2]


def test_folders_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"'malign' in folder 1, but .* one of 'normal', 'benign', 'tumour'"):
        load_with_schema(pictures(tmp_path / "a", malign=255, normal=0), PICTURES, "a")
    with pytest.raises(ConfigError, match=r"a folder of pictures, .* needs inputs of shape \[3\]"):
        load_with_schema(tmp_path / "a", SCHEMA, "a")
    with pytest.raises(ConfigError, match="is neither"):
        load_with_schema(tmp_path / "a.csv", SCHEMA, "a")
