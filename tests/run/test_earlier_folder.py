"""A run folder that version 0.1.0 wrote, stopped after two of four rounds, is resumed, reported on and exported.

The folder and what the whole run ended with lie in `earlier/`; they were made by `headway run` with the run file in it.
"""

import shutil
from pathlib import Path

import torch

from headway.observe.run_folder import read_tensors

EARLIER = Path(__file__).parent / "earlier"


def test_a_folder_of_an_earlier_version_ends_as_it_would_have_there(headway, tmp_path):
    shutil.copytree(EARLIER / "run", tmp_path / "run")
    code, _, err = headway("resume", "run", "--rounds", "4")
    assert code == 0, err
    tensors, notes = read_tensors(tmp_path / "run" / "checkpoints" / "round-000004.safetensors")
    expected, _ = read_tensors(EARLIER / "round-000004.safetensors")
    assert notes["round"] == 4
    for name, value in expected.items():
        torch.testing.assert_close(tensors[name], value, rtol=1e-4, atol=1e-5)  # another processor rounds otherwise


def test_a_folder_of_an_earlier_version_is_reported_on_and_exported(headway, tmp_path):
    shutil.copytree(EARLIER / "run", tmp_path / "run")
    for command in (("report", "run"), ("export", "run"), ("export", "run", "--best")):
        code, _, err = headway(*command)
        assert code == 0, err
    assert "scaffold+ecgr" in (tmp_path / "run" / "report.html").read_text()
