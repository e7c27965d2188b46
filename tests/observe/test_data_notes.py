"""What reading the data took is printed once, and kept in the run folder."""

import dataclasses
import json

import numpy as np
import torch
from mk import blobs, toml

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


def test_a_program_and_a_comparison_read_how_the_data_were_read(headway, tmp_path):
    x, y = blobs(n=60)
    np.savez("codes.npz", x=x, y=np.array([3, 7, 100, 50_000])[y], client=np.arange(60) % 3)
    toml(
        "codes.toml", 'source = "codes.npz"', rounds=2, trainer='lr = 0.05\nschedule = { kind = "linear", horizon = 1 }'
    )
    code, out, err = headway("run", "codes.toml", "--json")
    assert code == 0, err
    done = json.loads(out.splitlines()[-1])
    assert done["facts"]["classes"][0].startswith("4: 3 (")
    assert any("50000" in note for note in done["facts"]["read"])
    assert any("learning rate" in line for line in done["warnings"])
    for more in ([], ["--json"]):
        code, out, err = headway("compare", "codes.toml", "--methods", "fedavg,fedprox", "--seeds", "2", *more)
        assert code == 0, err
        assert "50000 (" in out
        assert "fedavg and fedprox: the learning rate" in out
