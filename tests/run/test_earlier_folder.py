"""Folders that earlier versions wrote: runs are resumed, reported on and exported, and a comparison is reported on.

`earlier` (a chain with client memory) and `earlier_clock` (a simulated clock, Oort's history, a schedule, side by side
training) were stopped in the middle by `headway run` with the run file in them; beside each lies what the whole run
ended with.  `earlier_comparison` is what `headway report` reads of a comparison with each client alone and pooled.
"""

import shutil
from pathlib import Path

import pytest
import torch

from headway.observe.run_folder import read_tensors

HERE = Path(__file__).parent
ENDS = {"earlier": 4, "earlier_clock": 6}
NOW = {"roster/out": "roster/in_flight"}  # today's names of tensors


def assert_near(path, expected_path, exact=()):
    """The tensors of two files are equal, but for how another processor rounds."""
    tensors, notes = read_tensors(path)
    expected, wanted = read_tensors(expected_path)
    expected = {NOW.get(name, name): value for name, value in expected.items()}
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(tensors[name], value, rtol=1e-4, atol=1e-5)
    for name in exact:
        assert notes[name] == wanted[name]


@pytest.mark.parametrize("name", ENDS)
def test_a_folder_of_an_earlier_version_ends_as_it_would_have_there(headway, tmp_path, name):
    shutil.copytree(HERE / name / "run", tmp_path / "run")
    code, _, err = headway("resume", "run", "--rounds", ENDS[name])
    assert code == 0, err
    last = f"round-{ENDS[name]:06d}.safetensors"
    assert_near(tmp_path / "run" / "checkpoints" / last, HERE / name / last, ("round",))


def test_history_clock_and_best_model_of_an_earlier_version_go_on(headway, tmp_path):
    shutil.copytree(HERE / "earlier_clock" / "run", tmp_path / "run")
    code, out, err = headway("resume", "run", "--rounds", "6")
    assert code == 0, err
    assert "the run took 2.85 s" in out  # of the simulated clock, in all six rounds
    assert "Best balanced_accuracy: 0.698" in out
    assert_near(tmp_path / "run" / "best.safetensors", HERE / "earlier_clock" / "best.safetensors", ("round", "metric"))


@pytest.mark.parametrize("name", ENDS)
def test_a_folder_of_an_earlier_version_is_reported_on_and_exported(headway, tmp_path, name):
    shutil.copytree(HERE / name / "run", tmp_path / "run")
    for command in (("report", "run"), ("export", "run"), ("export", "run", "--best")):
        code, _, err = headway(*command)
        assert code == 0, err
    assert "scaffold+ecgr" in (tmp_path / "run" / "report.html").read_text()


def test_a_comparison_of_an_earlier_version_is_reported_on(headway, tmp_path):
    shutil.copytree(HERE / "earlier_comparison", tmp_path / "compared")
    code, _, err = headway("report", "compared")
    assert code == 0, err
    page = (tmp_path / "compared" / "report.html").read_text()
    assert "Each client alone reaches 0.7297, pooled training 0.8189, fedavg 0.6405" in page
    assert "FedProx(mu=0.1)" in page
