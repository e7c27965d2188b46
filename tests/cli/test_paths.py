"""Paths that are something else: the sentence says what lies there, and what was probably meant."""

import numpy as np
import pytest
from mk import blobs, toml


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = blobs(n=60)
    np.savez("plain.npz", x=x, y=y, client=np.arange(60) % 3)
    toml("a.toml", 'source = "plain.npz"', rounds=1)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "houses.csv").write_text("town,price\na,1\n")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["init", "--data", "tables"], "tables is a folder, but one file is needed here, such as tables/houses.csv"),
        (["init", "--data", "empty"], "empty is a folder, but one file is needed here;"),
        (["init", "--data", "plian.npz"], "there is no file plian.npz (did you mean 'plain.npz'?); check the path."),
        (["run", "a.toml", "--set", "data.source=plian.npz"], "(did you mean 'plain.npz'?); check the path."),
        (["run", "a.toml", "--set", "data.source=nowhere/"], "there is no folder"),
        (["run", "plain.npz"], "`headway init --data plain.npz` writes a run file for it"),
        (["compare", "a.toml", "--methods", "fedavg,fedprox", "--out", "."], "needs a folder of its own"),
        (
            ["compare", "a.toml", "--methods", "fedavg,fedprox", "--out", "plain.npz"],
            "choose another folder with --out",
        ),
        (["report", "plain.npz"], "neither a run nor a comparison"),
        (["report", "nowhere"], "does not exist"),
    ],
)
def test_what_lies_there_is_said(headway, place, arguments, sentence):
    code, _, err = headway(*arguments)
    assert (code, sentence in err) == (1, True)
    assert not (place / "run.toml").exists()


def test_odd_folders_work(headway, place):
    folder = "my däta (v2) #1 100%"
    assert headway("run", "a.toml", "--out", folder)[0] == 0
    assert headway("report", folder)[0] == 0
    assert headway("resume", folder, "--rounds", "2")[0] == 0
    assert headway("export", folder)[0] == 0
    compare = ("compare", "a.toml", "--methods", "fedavg,fedprox", "--seeds", "1", "--workers", "1", "--out", "c %#ü")
    assert headway(*compare)[0] == 0
    assert headway("report", "c %#ü", "--out", "r ü.html")[0] == 0
