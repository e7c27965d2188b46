"""What reading the data took is printed once, and kept in the run folder."""

import dataclasses
import json

import torch

import headway as hw


def test_notes_and_class_names_are_kept_beside_the_run_and_change_no_fingerprint(tmp_path):
    plain = hw.data.FederatedData.from_clients({"a": ([[0.0], [1.0]], [0, 1]), "b": ([[2.0]], [1])})
    noted = dataclasses.replace(plain, class_names=("no", "yes"), notes=("2 rows without a target were left out",))
    assert noted.fingerprint() == plain.fingerprint()
    task = hw.Task(model=lambda: torch.nn.Linear(1, 2))
    run = hw.Run(hw.recipes.fedavg(), noted, task, rounds=1, folder=tmp_path / "run")
    list(run)
    run.close()
    kept = json.loads((tmp_path / "run" / "data.json").read_text())
    assert kept["class_names"] == ["no", "yes"]
    assert kept["notes"] == ["2 rows without a target were left out"]
