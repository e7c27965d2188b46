"""An answer is the same after it was written and read: sums to the bit, reports, replies and figures."""

from __future__ import annotations

import json
import math

import torch

from headway.core.update import Update
from headway.observe.run_folder import read_tensors, write_tensors
from headway.protocol.answer_state import answer_from_state, answer_to_state
from headway.protocol.messages import Answer
from headway.protocol.reports import ClientReport
from headway.protocol.sums import ExactTotal


def through_a_file(answer, path):
    values, tensors = answer_to_state(answer)
    write_tensors(path, {name: tensor.clone() for name, tensor in tensors.items()}, values)
    found, notes = read_tensors(path)
    return answer_from_state(notes, found)


def test_sums_reports_replies_and_figures_are_as_before(tmp_path) -> None:
    total = ExactTotal()
    for scale in (1e16, 1.0, -1e16, 1e-9):
        total.add(Update.of(scale * torch.randn(5), 0.1, control=torch.randn(2)).with_sums(tau=torch.tensor(0.3)))
    total.integers = {"mask": torch.tensor([2**62, -1])}
    reports = [
        ClientReport("a/b", "counted", 3, 2, 0.1 + 0.2, metrics={"train_loss": math.nan}),
        ClientReport("c", "rejected", reason="its weight is inf"),
    ]
    answer = Answer(
        total,
        {"a/b": {"public": torch.tensor([1, 2])}, "c": {}},
        reports,
        [ClientReport("d", "dropped")],
        {"drift": 0.1},
        {"ended_s": 2.5},
        {"e": 1.5},
        ["a note"],
    )
    other = through_a_file(answer, tmp_path / "answer.safetensors")
    assert torch.equal(other.total.value().delta, total.value().delta)
    other.total.add(Update.of(torch.ones(5), 1.0, control=torch.ones(2)))  # it can be added to
    total.add(Update.of(torch.ones(5), 1.0, control=torch.ones(2)))
    for name, vector in total.value().vectors.items():
        assert torch.equal(other.total.value().vectors[name], vector)
    assert (other.total.weight.units, other.total.sums["tau"].units) == (total.weight.units, total.sums["tau"].units)
    assert str(other.reports) == str(answer.reports)
    assert other.earlier == answer.earlier
    assert other.replies["a/b"]["public"].tolist() == [1, 2]
    assert other.replies.keys() == answer.replies.keys()
    assert (other.figures, other.clock, other.flying) == (answer.figures, answer.clock, answer.flying)
    assert list(other.notes) == ["a note"]


def test_updates_of_single_clients_are_as_before(tmp_path) -> None:
    total = ExactTotal()
    for client in ("b", "a/0"):
        total.add_row(client, Update.of(torch.randn(4), 2.0).with_sums(tau=torch.tensor(1.5)))
    other = through_a_file(Answer(total), tmp_path / "answer.safetensors").total
    assert other.rows.keys() == total.rows.keys()
    for client, update in total.rows.items():
        assert torch.equal(update.delta, other.rows[client].delta)
        assert torch.equal(update.weight, other.rows[client].weight)
    assert other.rows["b"].sums["tau"] == 1.5
    assert other.count == 2


def test_plain_values_are_what_json_holds() -> None:
    json.dumps(answer_to_state(Answer())[0])
