"""`headway attack`."""

import html
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
TABLE = """
[attack_grid]
rules = ["Mean"]
partitions = ["iid"]
attackers = 2
from_round = 2
knows = "attackers"
clients = { a = [], b = [{ stage = "ECGR" }] }
"""
ALONE = ("--workers", "1", "--json")
GRID = ("--rules", "Mean,Median,Bulyan", "--attacks", "none,FallOfEmpires,Backdoor", "--workers", "1", "--out", "grid")


def test_a_grid_ends_in_a_page_tables_and_a_sentence_and_is_gone_on_with(headway, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(FILE)
    code, out, err = headway("attack", "mine.toml", *GRID)
    assert code == 0, err
    assert "Bulyan is left out" in out
    assert "Switch on Median: with 1 of 6 clients attacking" in out
    assert "1 of 6 clients attack and know all updates; 6 runs of 3 rounds" in out
    results = json.loads((tmp_path / "grid" / "results.json").read_text())
    assert results["rule"] == "Median"
    assert results["attackers"] == ["client-5"]
    rates = {(v["rule"], v["attack"]): v.get("backdoor_success") for v in results["values"]}
    assert rates["Mean", "FallOfEmpires"] is None
    assert rates["Mean", "Backdoor"]["Backdoor"] > rates["Median", "Backdoor"]["Backdoor"] + 0.5
    assert rates["Mean", "none"]["Backdoor"] < 0.5
    assert all(v["seconds_per_round"] > 0 for v in results["values"])
    assert (tmp_path / "grid" / "attacks.png").read_bytes().startswith(b"\x89PNG")
    assert "| Median |" in (tmp_path / "grid" / "table.md").read_text()
    assert "Backdoor: nobody attacks" in (tmp_path / "grid" / "table.md").read_text()
    page = (tmp_path / "grid" / "attacks.html").read_text()
    assert results["sentence"] in html.unescape(page)
    journals = {path: path.stat().st_mtime_ns for path in (tmp_path / "grid" / "runs").glob("*/journal*")}
    assert headway("attack", "mine.toml", *GRID)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in journals} == journals
    assert json.loads((tmp_path / "grid" / "results.json").read_text()) == results


def test_the_file_declares_the_grid_and_options_go_before_it(headway, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(FILE + TABLE)
    code, out, err = headway("attack", "mine.toml", "--attacks", "Backdoor:boost=1,target=3", "--out", "g", *ALONE)
    assert code == 0, err
    results = json.loads(out.splitlines()[-1])
    assert [(v["rule"], v["setting"]) for v in results["values"]] == [
        ("Mean", "iid, a clients"),
        ("Mean", "iid, b clients"),
    ]
    assert {v["attack"] for v in results["values"]} == {"Backdoor:boost=1,target=3"}
    assert (results["from_round"], results["knows"], len(results["attackers"])) == (2, "attackers", 2)


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
