"""Going on after a crash, when something has changed meanwhile: the same bits, or a refusal that names what changed."""

import re
import shutil
import sqlite3
import sys

import numpy as np
import pytest
import torch
from mk import blobs, toml

from headway.cli.run_command import free_folder
from headway.observe.run_folder import RunFolder, read_tensors

OWN = """from torch import nn


def net(shape, outputs):
    return nn.Sequential(nn.Linear(shape[0], 8), nn.{}(), nn.Linear(8, outputs))
"""


@pytest.fixture
def begun(headway, tmp_path):
    """Runs `headway` in a folder that holds a SCAFFOLD run of 5 rounds, with checkpoints after 2, 4 and 5."""
    x, y = blobs(n=120)
    np.savez("plain.npz", x=x, y=y, client=np.arange(len(y)) % 4)
    toml("r.toml", 'source = "plain.npz"', rounds=5, run="checkpoint_every = 2", algorithm='recipe = "scaffold"')
    code, _, err = headway("run", "r.toml", "--out", "r")
    assert code == 0, err
    return headway


def bits(folder, round_):
    return read_tensors(folder / "checkpoints" / f"round-{round_:06d}.safetensors")[0]


def same_as_straight(headway, tmp_path, folder):
    headway("run", "r.toml", "--rounds", "7", "--out", "straight")
    one, other = bits(tmp_path / folder, 7), bits(tmp_path / "straight", 7)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refused(headway, *arguments):
    code, out, err = headway(*arguments)
    assert (code, out) == (1, "")
    assert "Traceback" not in err
    return err.removeprefix("error: ").strip()


def test_unchanged_it_ends_with_the_same_bits(begun, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    shutil.move("r", "elsewhere/a new place")
    code, out, err = begun("resume", "elsewhere/a new place", "--rounds", "7")
    assert (code, err) == (0, "")
    assert "warning" not in out
    assert same_as_straight(begun, tmp_path, "elsewhere/a new place")


def test_a_damaged_checkpoint_is_passed_over_and_said(begun, tmp_path):
    newest = tmp_path / "r" / "checkpoints" / "round-000005.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    code, out, _ = begun("resume", "r", "--rounds", "7")
    assert code == 0
    assert re.search(r"warning: .*round-000005\.safetensors is missing or damaged.*from that of round 4\.", out)
    assert same_as_straight(begun, tmp_path, "r")


def test_the_clients_memory_is_gone(begun, tmp_path):
    (tmp_path / "r" / "memory.sqlite").unlink()
    assert "memory.sqlite is gone: it holds what clients keep" in refused(begun, "resume", "r", "--rounds", "7")


def test_the_clients_memory_is_of_another_run(begun, tmp_path):
    begun("run", "r.toml", "--seed", "1", "--out", "other")
    shutil.copy("other/memory.sqlite", "r/memory.sqlite")
    assert "does not belong to the checkpoint of round 5" in refused(begun, "resume", "r", "--rounds", "7")


def test_a_clients_memory_is_gone(begun, tmp_path):
    with sqlite3.connect("r/memory.sqlite") as connection:
        connection.execute("DELETE FROM memory WHERE client = (SELECT MIN(client) FROM memory)")
    connection.close()
    assert "does not belong to the checkpoint" in refused(begun, "resume", "r", "--rounds", "7")


@pytest.mark.parametrize("name", ["memory.sqlite", "journal.sqlite", "run.json"])
def test_a_truncated_file_is_one_sentence(begun, tmp_path, name):
    file = tmp_path / "r" / name
    file.write_bytes(file.read_bytes()[:150])
    for side in ("-wal", "-shm"):
        (tmp_path / "r" / f"{name}{side}").unlink(missing_ok=True)
    assert name in refused(begun, "resume", "r", "--rounds", "7")


def test_the_journal_is_gone(begun, tmp_path):
    (tmp_path / "r" / "journal.sqlite").unlink()
    code, out, _ = begun("resume", "r", "--rounds", "7")
    assert code == 0
    assert "journal.sqlite is gone, and with it what it held of rounds 1 to 5" in out
    assert same_as_straight(begun, tmp_path, "r")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("lr = 0.05", "lr = 0.2", "algorithm.trainer.lr: 0.05 there, 0.2 now"),
        ("seed = 0", "seed = 3", "seed: 0 there, 3 now"),
        ('dtype = "float32"', 'dtype = "float64"', 'task.dtype: "float32" there, "float64" now'),
        ("[task]", '[task]\nmetrics = ["balanced_accuracy"]', "task.metrics"),
        ("[task]", '[task]\nloss = "mean_squared_error"', "task.loss"),
        ("[task]", '[clock]\npreset = "phones"\n[task]', "clock"),
        ("hidden = [\n    16,\n]", "hidden = [15]", "the model: other names or shapes"),
    ],
)
def test_an_edited_run_file_is_answered_key_by_key(begun, tmp_path, old, new, said):
    config = tmp_path / "r" / "run.toml"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    assert said in refused(begun, "resume", "r", "--rounds", "7")


def test_another_rhythm_of_evaluation_is_said(begun, tmp_path):
    config = tmp_path / "r" / "run.toml"
    config.write_text(config.read_text().replace("evaluate_every = 1", "evaluate_every = 2"))
    code, out, err = begun("resume", "r", "--rounds", "7")
    assert code == 0, err
    assert "evaluation.evaluate_every: 1 there, 2 now. No weight depends on it" in out
    assert same_as_straight(begun, tmp_path, "r")


def test_other_data(begun, tmp_path):
    arrays = dict(np.load("plain.npz"))
    arrays["y"][0] = (arrays["y"][0] + 1) % 4
    np.savez("plain.npz", **arrays)
    assert "the data: other examples" in refused(begun, "resume", "r", "--rounds", "7")


def test_other_code_of_the_model_is_said(begun, tmp_path, monkeypatch):
    (tmp_path / "lifecycle_own.py").write_text(OWN.format("ReLU"))
    toml("own.toml", 'source = "plain.npz"', 'name = "lifecycle_own:net"')
    code, _, err = begun("run", "own.toml", "--out", "own")
    assert code == 0, err
    (tmp_path / "lifecycle_own.py").write_text(OWN.format("Tanh"))
    monkeypatch.delitem(sys.modules, "lifecycle_own")
    code, out, _ = begun("resume", "own", "--rounds", "5")
    assert code == 0
    assert "the source of lifecycle_own has changed since the run was begun" in out


def test_two_at_once(begun, tmp_path):
    held = RunFolder.open(tmp_path / "r")
    assert "in use by another process" in refused(begun, "resume", "r", "--rounds", "7")
    held.close()


def test_an_earlier_folder_lacks_what_was_not_written_down_then(begun, tmp_path):
    identity = tmp_path / "r" / "run.json"
    text = identity.read_text()
    for name in ("task", "clock", "evaluation", "code"):
        text = text.replace(f'"{name}":', f'"not {name}":')
    identity.write_text(text)
    code, out, _ = begun("resume", "r", "--rounds", "7")
    assert code == 0
    assert out.count("did not write down its task, clock: whether these are the same is not known") == 1


class TestPlaces:
    """Where a run may be kept."""

    def test_a_run_that_failed_in_its_first_round_makes_way(self, begun, tmp_path):
        (tmp_path / "fails_own.py").write_text(OWN.format("ReLU").replace("8, outputs", "8, outputs * 0 + 1"))
        toml("f.toml", 'source = "plain.npz"', 'name = "fails_own:net"')
        assert begun("run", "f.toml", "--out", "f")[0] == 1
        code, _, err = begun("run", "r.toml", "--out", "f")
        assert code == 0, err

    def test_a_run_stopped_before_its_first_checkpoint_begins_anew(self, begun, tmp_path):
        shutil.rmtree("r/checkpoints")
        (tmp_path / "r" / "checkpoints").mkdir()
        code, out, _ = begun("resume", "r", "--rounds", "7")
        assert code == 0
        assert "stopped before its first checkpoint" in out
        assert same_as_straight(begun, tmp_path, "r")

    @pytest.mark.parametrize(
        ("place", "said"),
        [
            ("plain.npz", "plain.npz is not a folder"),
            ("/dev/null", "/dev/null is not a folder"),
            ("", "a run needs a folder of its own"),
            ("r", "holds a run: resume it with `headway resume r`"),
            ("mine", "holds other files"),
        ],
    )
    def test_a_place_that_is_taken(self, begun, tmp_path, place, said):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").write_text("all of it")
        assert said in refused(begun, "run", "r.toml", "--out", place)
        assert (tmp_path / "mine" / "thesis.tex").read_text() == "all of it"

    def test_two_at_once_get_a_folder_each(self, begun, tmp_path):
        with free_folder(tmp_path / "runs" / "r") as one, free_folder(tmp_path / "runs" / "r") as other:
            assert (one.name, other.name) == ("r", "r-2")
        with pytest.raises(ZeroDivisionError), free_folder(tmp_path / "runs" / "r") as third:
            raise ZeroDivisionError
        assert not third.exists()
