"""Reports on many clients: columns that say what rows say."""

import json
import pickle
import random
from dataclasses import replace

import pytest
import torch
from conformance.teststages import NoisyRelease
from toys import blobs, linear_task

import headway as hw
from headway.observe.round_report import RoundReport
from headway.protocol.messages import Answer, Message
from headway.protocol.reports import ClientReport, Reports, Same, columns_of, total


def mixture(seed, count=None):
    """Rows of every kind in any order: with and without metrics, norms and reasons; some alike."""
    chance = random.Random(seed)
    names = [f"c{number:03d}" for number in range(chance.randrange(12) if count is None else count)]
    chance.shuffle(names)
    rows = []
    for name in names:
        status = chance.choice(("counted", "counted", "counted", "rejected", "dropped"))
        known = [metric for metric in ("train_loss", "weight", "age") if chance.random() < 0.6]
        rows.append(
            ClientReport(
                name,
                status,
                chance.choice((0, 20)),
                chance.choice((2, 3)),
                chance.choice((None, 0.0, chance.random())),
                chance.random(),
                chance.choice((7, 8)),
                9,
                {metric: chance.uniform(-1, 1) for metric in known} if status == "counted" else {},
                "" if status == "counted" else f"since {name}",
            )
        )
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_columns_say_what_rows_say(seed):
    rows = mixture(seed)
    reports = Reports.of(rows)
    assert Reports.of(reports) is reports
    assert len(reports) == len(rows)
    assert list(reports) == rows
    assert [reports[place] for place in range(len(rows))] == rows
    assert [reports[place - len(rows)] for place in range(len(rows))] == rows
    assert reports[1:7:2] == rows[1:7:2]
    assert reports[::-1] == rows[::-1]
    for column, field in Reports.PLAIN.items():
        assert list(getattr(reports, column)) == [getattr(row, field) for row in rows]
    for name in ("train_loss", "weight", "age", "unknown"):
        assert list(reports.metric(name)) == [row.metrics.get(name) for row in rows]
        assert reports.with_metric(name) == [row for row in rows if name in row.metrics]
    for status in ("counted", "rejected", "dropped"):
        assert reports.with_status(status) == [row for row in rows if row.status == status]
    assert reports.by_client() == sorted(rows, key=lambda row: row.client)
    assert total(reports.bytes_up) == sum(row.bytes_up for row in rows)


@pytest.mark.parametrize("seed", range(20))
def test_parts_are_joined_in_order(seed):
    parts = [mixture(100 * seed + part) for part in range(4)]
    rows = [row for part in parts for row in part]
    joined = Reports.joined(map(Reports.of, parts))
    assert joined == rows
    assert joined.by_client() == sorted(rows, key=lambda row: row.client)


@pytest.mark.parametrize("seed", range(20))
def test_told_by_a_pipe_they_are_the_same(seed):
    alike = Reports((f"d{seed}", "e"), "dropped", seconds=0.25, bytes_down=7, reasons="away")
    reports = Reports.joined([Reports.of(mixture(seed)), alike])
    for each in (reports, alike, Reports()):
        again = Reports(**json.loads(json.dumps(each.to_state())))
        assert again == each
        assert again.to_state() == each.to_state()
        assert pickle.loads(pickle.dumps(each.to_state())) == each.to_state()


def test_a_number_comes_through_a_pipe_to_the_bit():
    values = [0.1, -0.0, 5e-324, float("inf"), float("nan")]
    reports = Reports("abcde", norms=values, metrics={"train_loss": values})
    again = Reports(**json.loads(json.dumps(reports.to_state())))
    assert list(map(repr, again.norms)) == list(map(repr, again.metric("train_loss"))) == list(map(repr, values))


def test_what_all_have_in_common_is_held_once():
    one = Reports(("a", "b"), "counted", [3, 4], bytes_up=7, metrics={"age": 0.0})
    two = Reports(("c",), "counted", [3], bytes_up=7, metrics={"age": 0.0})
    both = Reports.joined([one, two])
    for column in (both.statuses, both.bytes_up, both.reasons, both.metric("age")):
        assert isinstance(column, Same)
    assert both.examples == (3, 4, 3)
    assert total(both.bytes_up) == 21
    assert (both.statuses.count("counted"), both.statuses.count("dropped")) == (3, 0)
    assert both.with_status("counted") is both
    assert both.by_client() is both
    assert both.with_status("dropped") == ()
    other = Reports.joined([both, Reports(("d",), "dropped", [0], bytes_up=8)])
    assert list(other.bytes_up) == [7, 7, 7, 8]
    assert list(other.metric("age")) == [0.0, 0.0, 0.0, None]
    assert both.to_state() == {
        "clients": ("a", "b", "c"),
        "statuses": "counted",
        "examples": (3, 4, 3),
        "steps": 0,
        "norms": None,
        "seconds": 0.0,
        "bytes_up": 7,
        "bytes_down": 0,
        "reasons": "",
        "metrics": {"age": 0.0},
    }


def test_a_zero_keeps_its_sign():
    parts = [Reports([name], norms=norm, metrics={"train_loss": norm}) for name, norm in (("a", 0.0), ("b", -0.0))]
    joined = Reports.joined(parts)
    assert repr(list(joined.norms)) == repr(list(joined.metric("train_loss"))) == "[0.0, -0.0]"


def test_a_column_may_be_any_sequence():
    reports = Reports(("a", "b"), ("counted", "dropped"), range(2), reasons="none")
    assert (list(reports.statuses), reports.examples, reports[1].reason) == (["counted", "dropped"], (0, 1), "none")


def test_a_column_in_common_is_a_sequence():
    column = Same("x", 3)
    assert (column[0], column[-1], len(column), list(column)) == ("x", "x", 3, ["x"] * 3)
    assert (len(column[1:]), list(column[1:])) == (2, ["x"] * 2)
    with pytest.raises(IndexError):
        column[3]


def test_metrics_are_added():
    reports = Reports(("a", "b"), metrics={"train_loss": [1.0, 2.0], "age": [None, 3.0]})
    more = reports.adding({"age": [4.0, None], "cosine": [None, 0.5]})
    assert [row.metrics for row in more] == [
        {"train_loss": 1.0, "age": 4.0},
        {"train_loss": 2.0, "age": 3.0, "cosine": 0.5},
    ]
    assert reports[0].metrics == {"train_loss": 1.0}
    assert columns_of([row.metrics for row in more]) == {
        "train_loss": [1.0, 2.0],
        "age": [4.0, 3.0],
        "cosine": [None, 0.5],
    }


def test_equal_are_those_with_equal_rows():
    rows = (ClientReport("a", "counted", metrics={"train_loss": 0.5}), ClientReport("b", "dropped"))
    reports = Reports.of(rows)
    assert reports == rows
    assert rows == reports
    assert reports == list(rows)
    assert reports != rows[:1]
    assert reports != rows[::-1]
    assert reports != "ab"
    assert reports.with_status("counted") == Reports(("a",), metrics={"train_loss": 0.5})
    assert Reports() == ()
    assert eval(repr(reports), {"Reports": Reports, "ClientReport": ClientReport}) == reports


def test_rows_given_by_hand_become_columns():
    rows = (ClientReport("a", "counted", bytes_up=3), ClientReport("b", "dropped", bytes_down=4))
    answer = Answer(reports=rows, earlier=list(rows[1:]))
    assert isinstance(answer.reports, Reports)
    assert answer.counted == ("a",)
    report = RoundReport(1, None, rows, 0.1, 3, 4, earlier=rows[1:])
    assert (report.clients, report.earlier) == (rows, rows[1:])
    assert [report.count(status) for status in ("counted", "dropped", "rejected")] == [1, 1, 0]
    assert RoundReport.of(1, [answer], Answer(reports=rows)).bytes_down == 12


def test_a_mean_loss_is_that_of_the_rows():
    rows = mixture(7, count=200)
    known = [row for row in rows if row.status == "counted" and "train_loss" in row.metrics]
    expected = sum(row.examples * row.metrics["train_loss"] for row in known) / sum(row.examples for row in known)
    assert RoundReport.of(1, [Answer(reports=rows)], Answer()).train_loss == expected


def test_a_column_is_of_all_clients():
    with pytest.raises(AssertionError, match="a column of 1 for 2 clients"):
        Reports(("a", "b"), examples=[3])


@pytest.mark.parametrize("engine", [hw.LocalEngine(), hw.LocalEngine(lanes=3), hw.ProcessEngine(2, lanes=3)])
def test_what_a_protected_chain_hides_is_in_no_column(engine):
    chain = hw.chain(hw.Clip(norm=1.0), hw.Mean(over="expected"), NoisyRelease(0.1))
    algorithm = hw.Algorithm(chain, hw.LocalSGD(lr=0.1, batch_size=4), hw.All())
    for report in hw.rounds(algorithm, blobs(), linear_task(), rounds=2, engine=engine):
        reports = report.clients
        assert reports.statuses.count("counted") == len(reports) > 0
        assert not reports.metrics
        assert set(reports.examples) == set(reports.steps) == {0}
        assert set(reports.norms) == {None}
        assert min(reports.bytes_up) > 0


def test_the_digest_of_a_message_is_that_of_every_tensor_but_one_stage() -> None:
    message = Message(torch.arange(3.0), {"A": {"x": torch.ones(2)}, "B": {"y": torch.ones(1)}})
    digest = message.digest(without="B")
    assert len(digest) == 32
    assert digest == replace(message, stages={"A": {"x": torch.ones(2)}}).digest("B")
    others = (
        replace(message, params=torch.tensor([0.0, 1.0, 2.0000002])),
        replace(message, params=message.params.double()),
        replace(message, buffers=torch.zeros(1)),
        replace(message, stages={"A": {"x": torch.zeros(2)}}),
        replace(message, stages={"A": {"z": torch.ones(2)}}),
        replace(message, stages={"A": {"x": torch.ones(2, 1)}}),
    )
    assert len({digest, *(other.digest("B") for other in others)}) == 1 + len(others)
