"""What a screen shows of steps and alarms."""

import io
import json

from rich.console import Console
from test_run_command import headway  # noqa: F401

from headway.cli.run_command import _record, _warn
from headway.observe.alarms import Alarm, Lines
from headway.observe.progress import Meter
from headway.observe.round_report import RoundReport


def test_a_run_says_how_its_steps_are_kept(headway):  # noqa: F811
    code, out, _ = headway("run", "mine.toml", "--rounds", "1")
    assert code == 0
    assert "steps   kept in full precision, up to" in out
    code, out, _ = headway("run", "mine.toml", "--rounds", "1", "--set", "algorithm.trainer.steps_memory=1500 B")
    assert code == 0
    assert "of 4 clients" in out
    assert "by repeated training, in " in out
    code, out, _ = headway("run", "hospitals", "--rounds", "1", "--set", "algorithm.recipe=fedavg")
    assert code == 0
    assert "steps  " not in out


def test_a_budget_that_holds_nothing_is_one_sentence(headway):  # noqa: F811
    code, _, err = headway("run", "mine.toml", "--set", "algorithm.trainer.steps_memory=3 B")
    assert code == 1
    assert "steps_memory is 3 bytes, but one coordinate of" in err
    code, _, err = headway("run", "mine.toml", "--set", "algorithm.trainer.steps_memory=lots")
    assert code == 1
    assert "algorithm.trainer.steps_memory must be a number of bytes above 0" in err


def test_alarms_are_one_line_in_ten_rounds_and_whole_in_json():
    alarm = Alarm("against", ("[red]x[/red]",), "[red]x[/red] pulls against the other clients.", {"n": 1.0})
    screen, lines = io.StringIO(), Lines()
    with Meter(Console(file=screen, width=200), "round", 30) as meter:
        for round_ in range(1, 22):
            report = RoundReport(round_, None, (), 0.0, 0, 0, alarms=(alarm,))
            _warn(meter, report, lines)
    shown = [line for line in screen.getvalue().splitlines() if "pulls" in line]
    assert shown == [f"round {r}: [red]x[/red] pulls against the other clients." for r in (1, 11, 21)]
    record = json.loads(json.dumps(_record(report)))
    assert record["alarms"] == [
        {"kind": "against", "clients": ["[red]x[/red]"], "clusters": [], "text": alarm.text},
    ]
