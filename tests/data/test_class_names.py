"""Labels as people store them are numbered from 0, named, counted, and printed in the header of a run."""

import numpy as np
import pytest
from mk import blobs, toml

from headway.core.errors import DataError
from headway.data.dataset.class_names import map_labels


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([3, 7, 100, 50_000], ("3", "7", "100", "50000")),
        ([1, 2, 3, 4], ("1", "2", "3", "4")),
        ([-1, 0, 1, 2], ("-1", "0", "1", "2")),
        ([0.0, 1.0, 2.0, 2.5], ("0", "1", "2", "2.5")),
        (["cat", "dog", "eel", "fox"], ("cat", "dog", "eel", "fox")),
        ([False, True, False, True], ("False", "True")),
    ],
)
def test_any_labels_become_numbers_from_zero_and_keep_their_names(labels, names):
    mapped = map_labels([np.array(labels)[:3], np.array(labels)[3:]], "y")
    assert mapped.names == names
    assert [names[k] for part in mapped.codes for k in part.tolist()] == [
        str(v) if not isinstance(v, float) else f"{v:g}" for v in labels
    ]
    assert mapped.note or labels == [False, True, False, True]


def test_labels_that_are_classes_already_need_no_note_and_bad_ones_are_refused():
    assert map_labels([np.array([2, 0, 1])], "y").note == ""
    with pytest.raises(DataError, match="NaN or infinity"):
        map_labels([np.array([0.0, np.nan])], "y")
    with pytest.raises(DataError, match="text in one part and numbers in the other"):
        map_labels([np.array([0, 1]), np.array(["a"])], "y")


def test_the_header_counts_the_classes(headway, tmp_path):
    x, y = blobs(k=3)
    np.savez(tmp_path / "d.npz", x=x, y=np.minimum(y, 1), client=np.arange(len(y)) % 4)
    toml(tmp_path / "d.toml", f'source = "{tmp_path / "d.npz"}"\ntest_share = 0.0', rounds=1)
    _, out, _ = headway("run", str(tmp_path / "d.toml"))
    assert f"classes 2: 0 ({(y == 0).sum()}), 1 ({(y > 0).sum()})" in out
