"""The bytes of a secure round are those of all its messages, and the report has the exchanges by themselves."""

import pytest
import torch
from toys import blobs, linear_task

import headway as hw
from headway.engines.wire_engine import WireEngine
from headway.observe.journal import Journal
from headway.observe.text import bytes_text
from headway.protocol import wire
from headway.protocol.messages import Exchange, Train
from headway.reports.assemble import evidence
from headway.reports.page.round_sections import costs

DATA = blobs((7, 12, 5, 9))
CHAIN = hw.chain(hw.Clip(1.0), hw.Quantize(16), hw.SecureSum(min_cohort=3, min_survivors=3), hw.Mean("clients"))
ENGINES = {
    "local": hw.LocalEngine,
    "lanes": lambda: hw.LocalEngine(lanes=4),
    "wire": WireEngine,
    "clock": lambda: hw.ClockEngine(hw.LocalEngine(), hw.DeviceFleet()),
}


def encoded(tensors):
    return len(wire.encode(wire.Frame("reply", 0, 0, 0, tensors)))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_bytes_of_a_secure_round_are_those_of_its_encoded_messages(engine, tmp_path):
    algorithm = hw.Algorithm(CHAIN, hw.LocalSGD(lr=0.1, batch_size=4), hw.All())
    folder = tmp_path / "run"
    run = hw.Run(algorithm, DATA, linear_task(), rounds=1, engine=ENGINES[engine](), evaluate_every=None, folder=folder)
    original, sent, exchanged = run.engine.ask, {"up": 0, "down": 0}, {"up": 0, "down": 0}

    def ask(ask):
        answer = original(ask)
        if isinstance(ask.request, Exchange | Train):
            down = encoded(ask.message.tensors()) * len(ask.cohort)
            down += sum(encoded(own) for own in ask.private.values())
            up = sum(encoded(reply) for reply in answer.replies.values()) + sum(answer.reports.bytes_up)
            for counts in (sent, exchanged) if isinstance(ask.request, Exchange) else (sent,):
                counts["up"] += up
                counts["down"] += down
        return answer

    run.engine.ask = ask
    (report,) = run
    run.close()
    assert {"up": report.bytes_up, "down": report.bytes_down} == sent
    assert report.exchanged == exchanged
    assert min(exchanged.values()) > 0
    journal = Journal(folder / "journal.sqlite")
    assert {way: journal.series("exchanged", way) for way in exchanged} == {
        way: [(1, float(count))] for way, count in exchanged.items()
    }
    journal.close()
    (table,) = costs(evidence([folder])).tables
    assert f"exchanges of keys and shares took {bytes_text(exchanged['up'])} up" in table.note


def test_a_round_without_exchanges_has_none():
    run = hw.Run(hw.recipes.recipe("fedavg"), DATA, linear_task(), rounds=1, evaluate_every=None)
    (report,) = run
    assert report.exchanged == {}
    assert torch.is_tensor(run.state.params)
    run.close()
