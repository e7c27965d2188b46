"""`headway audit` as a person or a build runs it: exit codes, what is written, refusals."""

import json

DENSE = ["--attacks", "dense"]
SMALL = ["--set", "model.hidden=[4]", "--set", "algorithm.trainer.epochs=1"]


def test_an_attack_that_succeeds_is_exit_code_1(headway, tmp_path):
    code, out, err = headway("audit", "hospitals", *SMALL, "--set", "algorithm.trainer.batch_size=1", *DENSE)
    assert (code, err) == (1, "")
    assert "ATTACK SUCCEEDED" in out
    assert (tmp_path / "audits" / "hospitals.html").read_text().startswith("<!doctype html>")
    numbers = json.loads((tmp_path / "audits" / "hospitals.json").read_text())
    assert numbers["passed"] is False
    assert numbers["attacks"][0]["figures"]["recovered"] > 0


def test_bad_input_is_exit_code_2(headway, tmp_path):
    for arguments in (["nothing"], ["hospitals", "--out", "page.txt"], ["hospitals", "--attacks", "dens"]):
        code, _, err = headway("audit", *arguments)
        assert code == 2
        assert err.startswith("error: ")
    (tmp_path / "mine.html").write_text("my own page")
    code, _, err = headway("audit", "hospitals", "--out", "mine.html")
    assert code == 2
    assert "no audit" in err
    assert (tmp_path / "mine.html").read_text() == "my own page"


def test_json_alone(headway):
    code, out, _ = headway("audit", "hospitals", *SMALL, *DENSE, "--json", "--out", "a.html")
    (line,) = out.splitlines()
    record = json.loads(line)
    assert record["event"] == "audit"
    assert (code == 1) is not record["passed"]
