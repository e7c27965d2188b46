"""`headway attack`."""

import json

FILE = """
[run]
rounds = 3
[data]
source = "digits"
clients = 6
partition = { kind = "iid" }
central_share = 0.2
[model]
name = "logistic"
[algorithm]
chain = [{ stage = "Mean", over = "clients" }]
trainer = { trainer = "LocalSGD", lr = 0.5, batch_size = 32, steps = 3 }
sampler = { sampler = "All" }
"""
GRID = ("--rules", "Mean,Median,Bulyan", "--attacks", "none,FallOfEmpires", "--workers", "1", "--out", "grid")


def test_a_grid_ends_in_a_table_a_picture_and_a_sentence_and_is_gone_on_with(headway, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(FILE)
    code, out, err = headway("attack", "mine.toml", *GRID)
    assert code == 0, err
    assert "Bulyan is left out" in out
    assert "Switch on Median" in out
    assert "1 of 6 clients attack and know all updates; 4 runs of 3 rounds" in out
    results = json.loads((tmp_path / "grid" / "results.json").read_text())
    assert results["rule"] == "Median"
    assert len(results["values"]) == 4
    assert (tmp_path / "grid" / "attacks.png").read_bytes().startswith(b"\x89PNG")
    assert "| Median |" in (tmp_path / "grid" / "table.md").read_text()
    journals = {path: path.stat().st_mtime_ns for path in (tmp_path / "grid" / "runs").glob("*/journal*")}
    assert headway("attack", "mine.toml", *GRID)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in journals} == journals
    assert json.loads((tmp_path / "grid" / "results.json").read_text()) == results


def test_a_mistake_is_a_sentence(headway, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(FILE)
    for arguments, message in {
        ("--rules", "Krumm"): "no robust rule named 'Krumm'",
        ("--attacks", "Nothing"): "attack named 'Nothing'",
        ("--partition", "iid:x"): "needs a number",
        ("--set", "run.evaluate_every='never'"): "no model would be measured",
    }.items():
        code, _, err = headway("attack", "mine.toml", *arguments)
        assert code
        assert message in err
        assert "Traceback" not in err
