"""`headway init` on arrays: a run file that runs, or a sentence on what is needed."""

import numpy as np
import pytest
from mk import blobs

from headway.experiment.runfile import load_runfile

X, Y = blobs(n=120, d=6, k=4)
CLIENT = np.arange(120) % 4
R = np.random.default_rng(0)
SQUARES = R.normal(size=(120, 1, 8, 8)).astype("float32")


@pytest.mark.parametrize(
    ("x", "y", "kept", "said"),
    [
        (X, np.array([3, 7, 100, 50_000])[Y], "", "Classes 4: 3 ("),
        (X, np.array(["cat", "dog", "eel", "fox"])[Y], "", "cat ("),
        (X, np.eye(4, dtype="float32")[Y], "", "one-hot"),
        (X, (X[:, :3] > 0).astype(int), 'loss = "binary_cross_entropy"', "Labels 3 per example"),
        (X, (X @ R.normal(size=(6, 2))).astype("float32"), 'target_scale = "training"', "Targets values"),
        (R.poisson(3, (120, 6)), Y, 'inputs = "numbers"', "read as quantities"),
        (X, np.repeat([0, 1], 60), '"auroc"', "Classes 2"),
    ],
    ids=["codes", "text", "one-hot", "several labels", "two targets", "counts", "two classes"],
)
def test_the_file_that_is_written_runs_as_it_is(headway, tmp_path, x, y, kept, said):
    np.savez(tmp_path / "a.npz", x=x, y=y, client=CLIENT)
    code, out, err = headway("init", "--data", "a.npz")
    assert (code, err) == (0, "")
    assert said in out
    assert kept in (tmp_path / "run.toml").read_text()
    assert headway("run", "run.toml", "--rounds", "1")[0] == 0


def test_the_area_under_the_curve_is_that_of_all_together_where_no_client_has_both_classes(headway, tmp_path):
    y = np.repeat([0, 1], 60)
    np.savez(tmp_path / "a.npz", x=X, y=y, client=y)
    assert headway("init", "--data", "a.npz")[0] == 0
    assert load_runfile("run.toml").sections.task.metrics == ["balanced_accuracy", "pooled_auroc", "accuracy"]


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (SQUARES, R.integers(0, 3, (120, 8, 8)), "inputs [120, 1, 8, 8] (float32) and targets [120, 8, 8] (int64)"),
        (X, Y - 1, "the label -1"),
    ],
    ids=["masks", "minus one"],
)
def test_what_no_packaged_model_trains_on_is_a_sentence_and_no_file(headway, tmp_path, x, y, sentence):
    np.savez(tmp_path / "a.npz", x=x, y=y, client=CLIENT)
    code, _, err = headway("init", "--data", "a.npz")
    assert code == 1
    assert sentence in err
    assert not (tmp_path / "run.toml").exists()
