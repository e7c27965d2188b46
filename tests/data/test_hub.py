"""Columns and splits of Hugging Face data sets as they come: used, decoded, or refused in one sentence."""

import io
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from headway.core.errors import DataError
from headway.data import from_huggingface, load

pytestmark = pytest.mark.skipif(find_spec("datasets") is None, reason="the package datasets is not installed")
IID = {"partition": {"kind": "iid"}, "clients": 2, "test_share": 0.0}
N = 8


def rows(count=N, **columns):
    from datasets import Dataset

    base = {"a": np.arange(count) / 2, "y": [i % 2 for i in range(count)]}
    return Dataset.from_dict(base | columns)


def png(shade):
    raw = io.BytesIO()
    Image.new("L", (4, 4), shade).save(raw, "png")
    return raw.getvalue()


@pytest.mark.parametrize(
    ("columns", "options", "sentence"),
    [
        ({"t": ["word"] * N}, {"inputs": "t"}, "'t' is text, but numbers are needed; turn it into token ids"),
        ({"t": ["word"] * N}, {"inputs": ["a", "t"]}, "'t' is text"),
        ({"t": [[1], [1, 2]] * (N // 2)}, {"inputs": "t"}, "different shapes; resize or pad"),
        ({"t": [[1, None]] * N}, {"inputs": "t"}, "missing or no numbers"),
        ({"t": [1.0, None] * (N // 2)}, {"inputs": "t"}, "'t' is missing in 4 rows"),
        ({"t": [b"none"] * N}, {"inputs": "t"}, "bytes that are no picture"),
        ({"t": [{"u": 1}] * N}, {"inputs": "t"}, "holds 'u' in each row"),
        ({"y": ["a", None] * (N // 2)}, {}, "'y' is missing in 4 rows"),
        ({"y": [[0], [0, 1]] * (N // 2)}, {}, "different shapes"),
        ({"c": ["x", None] * (N // 2)}, {"client_column": "c"}, "'c' is missing in 4 rows"),
        ({"y": [0, -1] * (N // 2)}, {}, "the label -1"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(columns, options, sentence):
    more = {} if "client_column" in options else IID
    with pytest.raises(DataError, match=sentence):
        from_huggingface(rows(**columns), **({"inputs": "a", "target": "y"} | options | more))


@pytest.mark.parametrize("form", ["bytes", "dict"])
def test_encoded_pictures_are_decoded(form):
    shades = [10 * i for i in range(N)]
    values = [png(s) if form == "bytes" else {"bytes": png(s), "path": None} for s in shades]
    data = from_huggingface(rows(p=values), inputs="p", target="y", **IID)
    assert (data.store.inputs[:, 0, 0, 0] * 255).round().tolist() == shades


def test_labels_of_any_form():
    data = from_huggingface(rows(y=[3, 900] * (N // 2)), inputs="a", target="y", **IID)
    assert (data.classes, data.class_names) == (2, ("3", "900"))
    data = from_huggingface(rows(y=[[1, 0, 1], [0, 1, 1]] * (N // 2)), inputs="a", target="y", **IID)
    assert data.multi_label
    data = from_huggingface(rows(y=[0.0, 1.0] * (N // 2)), inputs="a", target="y", task="classification", **IID)
    assert data.classes == 2


def test_a_label_of_minus_one_in_a_test_split_is_refused():
    from datasets import ClassLabel, DatasetDict

    named = ClassLabel(names=["no", "yes"])
    both = DatasetDict(train=rows().cast_column("y", named), test=rows(y=[-1] * N).cast_column("y", named))
    with pytest.raises(DataError, match="test: 'y' is -1 in 8 rows, which have no label"):
        from_huggingface(both, inputs="a", target="y", **IID)


@pytest.mark.parametrize("name", ["validation", "dev"])
def test_validation_is_used_or_said(name, tmp_path):
    from datasets import DatasetDict

    three = DatasetDict({"train": rows(8), name: rows(4), "test": rows(6), "unsupervised": rows(2)})
    data = from_huggingface(three, inputs="a", target="y", **IID)
    assert (len(data.store), len(data.central)) == (8, 6)
    assert f"splits: {name}, unsupervised left out (data.validation" in data.notes[1]
    data = from_huggingface(three, inputs="a", target="y", validation="train", **IID)
    assert (len(data.store), len(data.central)) == (12, 6)
    del three["test"]
    data = from_huggingface(three, inputs="a", target="y", **IID)
    assert (len(data.store), len(data.central)) == (8, 4)
    assert data.notes[0] == f"splits: {name} is what is tested on"
    three.save_to_disk(tmp_path / "saved")
    assert len(load(tmp_path / "saved", inputs="a", target="y", validation="train", **IID).store) == 12
    del three["train"]
    with pytest.raises(DataError, match=f"the splits {name}, unsupervised, and one split 'train' is needed"):
        from_huggingface(three, inputs="a", target="y", **IID)


def test_a_streamed_data_set_is_refused_and_groups_stay_together():
    with pytest.raises(DataError, match="streamed one has to be downloaded"):
        from_huggingface(rows().to_iterable_dataset(), inputs="a", target="y", **IID)
    patient = [i // 2 for i in range(N)]
    data = from_huggingface(rows(p=patient), inputs="a", target="y", group="p", **(IID | {"test_share": 0.3}))
    assert "whole groups of 'p', drawn at random" in data.split
