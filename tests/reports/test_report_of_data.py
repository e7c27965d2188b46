"""What reading the data changed, and the names of the classes, are on the report page of a run and of a comparison."""

import json

import numpy as np
from mk import blobs, toml


def test_notes_and_class_names_are_on_the_page(headway, tmp_path):
    x, y = blobs(n=60, k=2)
    np.savez("d.npz", x=x, y=np.array(["ill <b>", "well"])[y], client=np.arange(60) % 3)
    toml("a.toml", 'source = "d.npz"', rounds=1)
    assert headway("run", "a.toml", "--out", "one")[0] == 0
    kept = json.loads((tmp_path / "one" / "data.json").read_text())
    assert list(kept["class_names"]) == ["ill <b>", "well"]
    kept["notes"] = ["2 rows without a target were left out"]
    (tmp_path / "one" / "data.json").write_text(json.dumps(kept))
    assert headway("report", "one")[0] == 0
    page = (tmp_path / "one" / "report.html").read_text()
    assert "2 rows without a target were left out" in page
    assert "ill &lt;b&gt;" in page
    compare = ("compare", "a.toml", "--methods", "fedavg,fedprox", "--seeds", "1", "--workers", "1", "--out", "c")
    assert headway(*compare)[0] == 0
    assert headway("report", "c")[0] == 0
    assert "ill &lt;b&gt;" in (tmp_path / "c" / "report.html").read_text()


def test_a_run_without_data_json_or_with_a_damaged_one_is_still_reported(headway, tmp_path):
    toml("a.toml", 'source = "hospitals"', rounds=1)
    assert headway("run", "a.toml", "--out", "one")[0] == 0
    for text in ("[1", '{"notes": 3, "constant": 4}', '{"constant": {"clients": {"accuracy": "x"}}}'):
        (tmp_path / "one" / "data.json").write_text(text)
        assert headway("report", "one")[0] == 0
    (tmp_path / "one" / "data.json").unlink()
    assert headway("report", "one")[0] == 0
