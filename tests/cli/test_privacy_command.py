"""`headway privacy plan` and `headway privacy verify`."""

import json

import pytest
from typer.testing import CliRunner

from headway.cli.main import app
from headway.core.errors import ConfigError
from headway.privacy.ledger_file import LEDGER

PRIVATE = """
[run]
rounds = 3
[data]
source = "hospitals"
[model]
name = "mlp"
hidden = [4]
[algorithm]
chain = [{stage="Clip", norm=0.5}, {stage="Mean", over="expected"}, {stage="GaussianNoise", multiplier=3.0}]
sampler = {sampler="All"}
[privacy]
epsilon = 1.5
delta = 1e-3
"""


def headway(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def plan(clients, *more):
    """The plan of a federation all of whose clients take part."""
    numbers = {"population": clients, "cohort": clients, "rounds": 10, "epsilon": 2, "delta": 1e-4}
    given = [text for name, number in numbers.items() for text in (f"--{name}", number)]
    return headway("privacy", "plan", *given, *more).stdout


def test_a_plan_of_numbers():
    found = plan(40)
    assert "noise multiplier" in found
    assert "Give --model-size" in found


def test_a_federation_that_is_too_small():
    size = ("--model-size", 10000)
    found = plan(40, *size)
    assert "too small for the promise" in found
    record = json.loads(plan(40, *size, "--json"))
    assert record["large_enough"] is False
    assert f"{record['sufficient_population']} clients, of whom the same share takes part" in found
    assert f"a model of {record['sufficient_model_size']} shared parameters" in found
    assert json.loads(plan(record["sufficient_population"], *size, "--json"))["large_enough"] is True


def test_a_file_whose_clients_draw_the_noise_is_planned_without_amplification(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sampled = PRIVATE.replace('"All"}', '"Poisson", rate=0.75}')
    summed = '{stage="Quantize"}, {stage="Skellam", multiplier=3.0, survivors=3}, '
    summed += '{stage="SecureSum", min_cohort=3, min_survivors=3}'
    shares = sampled.replace(', {stage="GaussianNoise", multiplier=3.0}', "").replace(
        '{stage="Mean"', summed + ', {stage="Mean"'
    )
    for text, fixed in ((sampled, False), (shares, True)):
        (tmp_path / "private.toml").write_text(text)
        record = json.loads(headway("privacy", "plan", "private.toml", "--json").stdout)
        assert record["fixed"] is fixed


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match="--cohort, how many take part"):
        headway("privacy", "plan", "--population", 40)
    with pytest.raises(ConfigError, match="--set changes a run file"):
        headway("privacy", "plan", "--set", "run.rounds=3")


def test_a_plan_of_a_run_file_and_the_run_and_its_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "private.toml").write_text(PRIVATE)
    plan = headway("privacy", "plan", "private.toml").stdout
    assert "4, of whom 4 take part in a round" in plan
    assert "updates clipped to 0.5" in plan
    assert "the run would end after 2 rounds" in plan
    explained = headway("explain", "private.toml").stdout
    assert "gaussian noise x3 on delta, at the server, hides one client" in " ".join(explained.split())
    assert "epsilon 1.61 after 3 rounds, above its budget of 1.5" in explained
    ran = headway("run", "private.toml", "--out", "run").stdout
    assert "epsilon 1.27 of 1.5" in ran
    assert "the privacy budget allows no round 3" in " ".join(ran.split())
    assert "headway privacy verify run" in ran
    again = headway("resume", "run").stdout
    assert "has ended: the privacy budget allows no round 3" in again
    checked = headway("privacy", "verify", "run")
    assert checked.exit_code == 0
    assert "epsilon 1.27 at delta 0.001; 1.27 by other means" in checked.stdout
    record = json.loads(headway("privacy", "verify", "run", "--json").stdout)
    assert (record["lines"], record["releases"], record["differences"]) == (3, 2, [])
    path = tmp_path / "run" / LEDGER
    path.write_text(path.read_text().replace('"round":2', '"round":1'))
    broken = headway("privacy", "verify", "run")
    assert broken.exit_code == 1
    assert "Line 3 is the first that is wrong" in broken.stdout


def test_a_run_goes_on_with_a_larger_budget(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "private.toml").write_text(PRIVATE)
    headway("run", "private.toml", "--out", "run")
    more = headway("resume", "run", "--epsilon", "1.7").stdout
    assert "epsilon 1.61 of 1.7" in more
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "run" / LEDGER).read_text().splitlines()]
    assert kinds == ["start", "reserve", "reserve", "resume", "reserve"]
    assert headway("privacy", "verify", "run").exit_code == 0
