"""`make federation-demo`: four hospitals as processes with certificates, and the weights of the simulation."""

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "federation_demo.py"
ROUNDS = 2


def demonstrate(folder, *options):
    words = [sys.executable, str(DEMO), "--folder", str(folder), "--rounds", str(ROUNDS), *options]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    logs = "".join(f"== {log.name}\n{log.read_text()}" for log in sorted(folder.glob("logs/*.log")))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    return done.stdout


@pytest.mark.parametrize("options", [(), pytest.param(("--relay",), marks=pytest.mark.soak)], ids=["plain", "relay"])
def test_four_processes_have_the_weights_of_the_simulation_and_its_report(tmp_path, options, headway):
    shown = demonstrate(tmp_path / "demo", *options)
    assert "https://localhost:" in shown
    page = (tmp_path / "demo" / "run" / "report.html").read_text()
    assert "Times of a federation are those of its server&#39;s clock" in page
    for hospital in ("cleveland", "hungary", "switzerland", "va"):
        assert hospital in page
    code, out, err = headway("run", "hospitals", "--rounds", str(ROUNDS), "--out", str(tmp_path / "simulated"))
    assert code == 0, out + err
    models = []
    for name, run in (("a", tmp_path / "demo" / "run"), ("b", tmp_path / "simulated")):
        code, out, err = headway("export", str(run), "--out", str(tmp_path / f"{name}.safetensors"))
        assert code == 0, out + err
        models.append(load_file(tmp_path / f"{name}.safetensors"))
    verified = subprocess.run(  # in a process of its own, which knows only the stages that it imports itself
        [sys.executable, "-m", "headway", "verify", "run"],
        cwd=tmp_path / "demo",
        capture_output=True,
        text=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "cannot be built" not in verified.stdout
    code, _, err = headway("export", str(tmp_path / "demo" / "run"), "--client", "va")
    assert code == 1
    assert "lies at that client" in err
    assert models[0].keys() == models[1].keys()
    assert all(models[0][name].equal(models[1][name]) for name in models[0])


def test_private_hospitals_show_their_sum_alone_and_have_a_ledger(tmp_path, headway):
    shown = demonstrate(tmp_path / "demo", "--private", "--relay")  # two of the hospitals through it
    assert shown.count("4 counted") == ROUNDS
    run = tmp_path / "demo" / "run"
    code, out, err = headway("privacy", "verify", str(run))
    assert code == 0, out + err
    with contextlib.closing(sqlite3.connect(run / "journal.sqlite")) as journal:
        shown = journal.execute("SELECT examples, steps, norm, train_loss FROM clients").fetchall()
        losses = journal.execute("SELECT train_loss FROM rounds").fetchall()
    assert shown == [(0, 0, None, None)] * 4 * ROUNDS
    assert losses == [(None,)] * ROUNDS
    with contextlib.closing(sqlite3.connect(run / "events.sqlite")) as events:
        assert not any("examples" in more for (more,) in events.execute("SELECT more FROM events"))
    sizes = [b'"examples": %d' % size for size in (243, 235, 99, 160)]
    written = b"".join(path.read_bytes() for path in (run / "manifests").glob("*.json"))
    assert not any(size in written or size.replace(b" ", b"") in written for size in sizes)


def test_four_hospitals_are_too_few_for_a_strong_promise(headway):
    code, out, err = headway("privacy", "plan", "private-hospitals", "--epsilon", "3")
    assert code == 0, err
    assert "The federation is too small for the promise" in out


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("")
    done = subprocess.run(
        [sys.executable, str(DEMO), "--folder", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_each_kind_has_a_folder_of_its_own(tmp_path):
    for name in ("federation-demo", "federation-demo-relay-private"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("")
    for options, name in (((), "federation-demo"), (("--private", "--relay"), "federation-demo-relay-private")):
        words = [sys.executable, str(DEMO), *options]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.partition(" is not empty")[0]) == (1, name)
