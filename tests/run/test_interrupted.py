"""A run that is interrupted anywhere in a round goes on to the bits, and the journal, of an uninterrupted one."""

import pytest
import torch
from toys import blobs, linear_task

import headway as hw
from headway.core import stopping
from headway.observe.journal import Journal
from headway.protocol.messages import Evaluate, Settle, Train

ROUNDS = 6


def make(folder, clock, resume=False):
    trainer = hw.LocalSGD(lr=0.1, batch_size=4)
    quorum = hw.Quorum(count=2, late="keep") if clock else hw.Quorum()
    algorithm = hw.recipes.recipe("scaffold" if not clock else "fedavg", trainer=trainer, sampler=hw.Uniform(count=3))
    algorithm = hw.Algorithm(algorithm.chain, algorithm.trainer, algorithm.sampler, quorum)
    inner = hw.LocalEngine()
    engine = hw.ClockEngine(inner, hw.DeviceFleet(examples_per_s=3.0, speed_spread=1.0)) if clock else inner
    data = blobs(sizes=(7, 12, 5, 9))
    run = hw.Run(
        algorithm, data, linear_task(), rounds=ROUNDS, folder=folder, resume=resume, engine=engine, checkpoint_every=10
    )
    return run, inner


def finish(run):
    list(run)
    run.close()
    return run.state.tensors()


@pytest.mark.parametrize("clock", [False, True], ids=["plain", "clock"])
@pytest.mark.parametrize("request_type", [Train, Settle, Evaluate], ids=lambda request: request.__name__)
def test_an_interrupt_in_any_part_of_a_round(tmp_path, request_type, clock):
    whole, _ = make(tmp_path / "whole", clock)
    expected = finish(whole)
    run, inner = make(tmp_path / "run", clock)
    original, rounds = inner.ask, []

    def interrupted(ask):
        answer = original(ask)
        rounds.append(type(ask.request))
        if rounds.count(request_type) == 4:
            raise stopping.Stopped(2)
        return answer

    inner.ask = interrupted
    with pytest.raises(stopping.Stopped):
        list(run)
    run.close()
    resumed, _ = make(tmp_path / "run", clock, resume=True)
    assert resumed.state.round == (3 if request_type is Train else 0)
    found = finish(resumed)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    one, other = (Journal(tmp_path / name / "journal.sqlite") for name in ("run", "whole"))
    for table in ("metrics", "flying"):
        assert one.rows(table) == other.rows(table)
    one.close()
    other.close()
