"""Clients that do not train as was meant: the engine line or the round's notes name what fails, once."""

import sqlite3
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from mk import blobs as numbers
from mk import toml
from torch import nn
from toys import blobs

import headway as hw

SIZES = (7, 12, 5, 9, 20, 4)
TRAINER = hw.LocalSGD(lr=0.1, batch_size=4)


def model():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def run(*stages, engine=None, trainer=TRAINER, make=model, rounds=3, folder=None, rule=None):
    algorithm = hw.Algorithm(hw.chain(*stages, rule or hw.Mean()), trainer, hw.All())
    task = hw.Task(make, dtype="float64")
    engine = engine or hw.LocalEngine(lanes=3)
    made = hw.Run(algorithm, blobs(sizes=SIZES), task, rounds=rounds, engine=engine, seed=3, folder=folder)
    try:
        return made, list(made)
    finally:
        made.close()


def notes(reports):
    return [note for report in reports for note in report.notes]


@dataclass(frozen=True)
class OneAtATime(hw.Stage):
    """Written for one client: it takes numbers out of vectors, which several clients have many of."""

    place: ClassVar[hw.Place] = hw.Place.STEP
    hook: str = "send"

    def connect(self, flow):
        return flow.keep(self, "additive", "dense")

    def step(self, grad, w, memory, ctx):
        return grad * float(ctx.examples > 0) if self.hook == "step" else grad

    def send(self, update, memory, ctx):
        if self.hook == "send":
            float(update.weight)
        return update, memory

    def decode(self, update, ctx):
        if self.hook == "decode":
            float(update.weight)
        return update


@pytest.mark.parametrize("hook", ["step", "send", "decode"])
@pytest.mark.parametrize("engine", [lambda: hw.LocalEngine(lanes=3), lambda: hw.ProcessEngine(2, lanes=3)])
def test_a_stage_that_fails_with_leading_axes_is_named_in_the_engine_line(engine, hook):
    made, reports = run(OneAtATime(hook), engine=engine())
    said = made.engine.summary
    assert f"clients one at a time, since OneAtATime.{hook} fails for several clients at once (ValueError: " in said
    assert "side by side" not in said
    assert not notes(reports)
    alone, _ = run(OneAtATime(hook), engine=hw.LocalEngine())
    torch.testing.assert_close(made.state.params, alone.state.params, rtol=1e-12, atol=1e-12)


@dataclass(frozen=True)
class Mixes(hw.Stage):
    """Written for one client: of several it takes the length of all, without an error."""

    place: ClassVar[hw.Place] = hw.Place.STEP
    hook: str = "send"

    def connect(self, flow):
        return flow.keep(self, "additive", "dense")

    def step(self, grad, w, memory, ctx):
        return grad / grad.norm() if self.hook == "step" else grad

    def send(self, update, memory, ctx):
        return (update.with_delta(update.delta / update.delta.norm()) if self.hook == "send" else update), memory

    def decode(self, update, ctx):
        return update.with_delta(update.delta / update.delta.norm()) if self.hook == "decode" else update


@pytest.mark.parametrize("hook", ["step", "send", "decode"])
def test_a_stage_that_mixes_clients_trains_them_one_at_a_time(hook):
    made, _ = run(Mixes(hook))
    assert made.engine.sequential_reason is not None
    assert "differs between" in made.engine.sequential_reason
    alone, _ = run(Mixes(hook), engine=hw.LocalEngine())
    torch.testing.assert_close(made.state.params, alone.state.params, rtol=1e-12, atol=1e-12)


@dataclass(frozen=True)
class FailsBeside(hw.Stage):
    """Fails where a client with so many examples is one of several."""

    place: ClassVar[hw.Place] = hw.Place.STEP
    examples: int = 20

    def connect(self, flow):
        return flow.keep(self, "additive", "dense")

    def send(self, update, memory, ctx):
        if ctx.examples.ndim and bool((ctx.examples == self.examples).any()):
            raise ZeroDivisionError("on purpose")
        return update, memory


@pytest.mark.parametrize("engine", [lambda: hw.LocalEngine(lanes=3), lambda: hw.ProcessEngine(2, lanes=2)])
def test_a_stage_that_fails_later_is_named_once_in_the_notes_and_the_journal(engine, tmp_path):
    made, reports = run(FailsBeside(), engine=engine(), folder=tmp_path / "run")
    found = notes(reports)
    assert len(found) == 1
    assert found[0].startswith("FailsBeside.send fails for several clients at once (ZeroDivisionError: on purpose): ")
    assert reports[0].count("counted") == len(SIZES)
    kept = sqlite3.connect(tmp_path / "run" / "journal.sqlite").execute("SELECT round, text FROM notes").fetchall()
    assert kept == [(1, found[0])]
    assert "side by side" in made.engine.summary


def test_the_run_prints_it(headway, tmp_path):
    (tmp_path / "one_client.py").write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\nimport headway as hw\n"
        "@hw.stages.register\n@dataclass(frozen=True)\nclass OneClient(hw.Stage):\n"
        "    place: ClassVar[hw.Place] = hw.Place.STEP\n"
        "    def send(self, update, memory, ctx):\n        float(update.weight)\n        return update, memory\n"
    )
    x, y = numbers(60)
    np.savez("made.npz", x=x, y=y, client=np.arange(60) % 3)
    chain = 'chain = [{ stage = "OneClient" }, { stage = "Mean" }]'
    toml("made.toml", 'source = "made.npz"', algorithm=chain, rounds=1, run='imports = ["one_client"]')
    code, out, err = headway("run", "made.toml", "--lanes", 3)
    assert code == 0, err
    assert "engine  clients one at a time, since OneClient.send fails for several clients at once (ValueError" in out


@dataclass(frozen=True)
class NotFinite(hw.Stage):
    """Makes one client's update infinite."""

    place: ClassVar[hw.Place] = hw.Place.STEP

    def connect(self, flow):
        return flow.keep(self, "additive", "dense")

    def step(self, grad, w, memory, ctx):
        wrong = (ctx.examples == 20).to(grad.dtype).unsqueeze(-1)
        return grad / (1 - wrong)


def test_an_update_that_is_not_finite_is_said_and_named():
    made, reports = run(NotFinite(), rounds=2)
    assert [(r.client, r.status) for r in reports[0].clients if r.status != "counted"] == [("client-4", "rejected")]
    found = notes(reports)
    assert len(found) == 1
    assert "an update of a batch is not finite" in found[0]
    assert made.engine.sequential_reason is None


def test_steps_that_do_not_fit_are_said():
    small = hw.LocalSGD(lr=0.1, batch_size=4, steps_memory=51 * 8 * 5)
    _, reports = run(hw.ECGR(), trainer=small)
    assert [note for note in notes(reports) if "do not fit in trainer.steps_memory" in note] == notes(reports)
    assert len(notes(reports)) == 1


class Once(nn.Module):
    """Its second layer is called twice, or with rows that are parts of an example."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.two(self.one(self.one(x)))


@pytest.mark.parametrize(
    ("stages", "make", "trainer", "drift", "why"),
    [
        (
            (),
            Once,
            TRAINER,
            False,
            "the model does not take rows in that form (RuntimeError: the layer one is not called",
        ),
        ((hw.Scaffold(),), model, TRAINER, False, "Scaffold looks at each client's update"),
        ((), model, hw.LocalSGD(lr=0.1, weight_decay=0.1), False, "weight decay and clipped gradients need"),
        ((), model, TRAINER, True, "figures of each client's steps are measured (drift)"),
    ],
    ids=["model", "stage", "trainer", "drift"],
)
def test_a_low_rank_form_that_was_asked_for_and_cannot_be_is_said(stages, make, trainer, drift, why):
    rule = hw.Mean(over="clients") if stages else hw.Mean()
    engine = hw.LocalEngine(lanes=3, low_rank=True, drift=drift)
    made, _ = run(*stages, engine=engine, make=make, trainer=trainer, rounds=1, rule=rule)
    assert made.engine.summary.startswith(f"3 clients side by side, not in low-rank form, since {why}")


def test_a_loss_that_looks_at_other_examples_trains_one_client_at_a_time():
    """Beside padding, a batch would have another mean."""

    def ranked(outputs, targets):
        loss = nn.functional.cross_entropy(outputs, targets, reduction="none")
        return loss - 0.1 * loss.mean()

    task = hw.Task(model, loss=ranked, dtype="float64")
    made = [
        hw.Run(
            hw.recipes.fedavg(trainer=TRAINER), blobs(sizes=SIZES), task, rounds=2, engine=hw.LocalEngine(lanes=lanes)
        )
        for lanes in (1, 3)
    ]
    for each in made:
        list(each)
    assert made[1].engine.sequential_reason == "the loss of an example depends on the others in a batch"
    assert torch.equal(made[0].state.params, made[1].state.params)
