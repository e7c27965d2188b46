"""Work that a deadline cuts short, or that fills a window."""

import pytest
import torch
from test_clock_engine import SLOW, counted, made
from toys import blobs

import headway as hw
from headway.protocol.messages import Ask, Message, Train

TRAINER = hw.LocalSGD(lr=0.1, batch_size=3, epochs=3, momentum=0.5)


def run(engine, recipe="fedavg", *, quorum, rounds=4, trainer=TRAINER, sizes=tuple(range(5, 17)), **options):
    one = made(engine, recipe, quorum=quorum, trainer=trainer, rounds=rounds, sizes=sizes, **options)
    reports = list(one)
    one.close()
    return one, reports


def times(fleet=SLOW):
    """When the clients of the first round end."""
    _, reports = run(hw.ClockEngine(fleet=fleet), quorum=hw.Quorum(), rounds=1)
    return sorted(client.metrics["ended_s"] for client in reports[0].clients)


@pytest.mark.parametrize(
    "trainer",
    [
        hw.LocalSGD(batch_size=4, epochs=3),
        hw.LocalSGD(batch_size=4, steps=7),
        hw.LocalSGD(batch_size=None, epochs=2),
        hw.LocalSGD(batch_size=4, epochs=2, validation=0.3),
    ],
    ids=lambda t: f"{t.batch_size} {t.epochs} {t.steps} {t.validation}",
)
@pytest.mark.parametrize("most", [0, 1, 3, 4, 7, 8, 10, 11, 12, 30, 33, 34, 99])
def test_the_steps_that_fit_are_whole_batches_in_their_order(trainer, most):
    training = 11 - int(trainer.validation * 11)
    taken, steps = 0, 0
    batch = trainer.batch_size or training
    while True:  # one batch after another, as long as they fit
        left = training - taken % training
        if taken + min(batch, left) > most:
            break
        taken, steps = taken + min(batch, left), steps + 1
    assert trainer.steps_within(11, most) == (steps, taken)


@pytest.mark.parametrize("inner", [hw.LocalEngine(), hw.LocalEngine(lanes=3), hw.ProcessEngine(2, lanes=2)])
@pytest.mark.parametrize("recipe", ["fedavg", "scaffold", "fednova", "fedavg+ecgr"])
def test_who_would_be_late_sends_what_it_managed(inner, recipe):
    """Against each client trained alone for the steps that the clock found."""
    deadline = times()[1]
    quorum = hw.Quorum(deadline_s=deadline, work="partial")
    one, reports = run(hw.ClockEngine(inner, SLOW), recipe, quorum=quorum, rounds=1)
    report = reports[0]
    whole = {client: -(-len(one.data.train[client]) // 3) * 3 for client in one.data.clients}
    steps = {client.client: client.steps for client in report.clients if client.status == "counted"}
    assert len(steps) >= 4
    cut = [client for client, count in steps.items() if count < whole[client]]
    assert len(cut) >= 2
    assert all(count <= whole[client] for client, count in steps.items())
    for client in report.clients:
        if client.client in steps:
            device = SLOW.device(client.client, one.engine.key)
            size, made_ = len(one.data.train[client.client]), client.steps
            epochs, rest = divmod(made_, -(-size // 3))
            examples = epochs * size + 3 * rest
            took = device.seconds(examples, client.bytes_down, client.bytes_up)
            assert client.metrics["ended_s"] == pytest.approx(took)
            assert took <= deadline * (1 + 1e-12)
            if client.client in cut:  # one more batch would have been too late
                more = examples + min(3, size - 3 * rest)
                assert device.seconds(more, client.bytes_down, client.bytes_up) > deadline
    alone = made(hw.LocalEngine(), recipe, trainer=TRAINER, rounds=1)
    cohort = tuple(sorted(steps))
    message = Message(alone.state.params, alone.algorithm.chain.broadcast(alone.state.stages))
    answer = alone.engine.ask(Ask(Train(message), cohort, steps={client: steps[client] for client in cut}))
    total = answer.total.value()
    delta = total.delta / float(total.weight)
    if recipe in ("fedavg", "fedavg+ecgr", "scaffold"):
        expected = (alone.state.params.double() + delta).float()
        torch.testing.assert_close(one.state.params, expected, rtol=1e-5, atol=1e-6)
    alone.close()


def test_fewer_steps_are_the_first_ones_of_many():
    """A client that is cut short after k steps has done what a trainer of k steps does."""
    data = blobs(sizes=(11, 7))

    def final(trainer, steps):
        algorithm = hw.Algorithm(hw.chain(hw.Mean(), hw.ServerSGD()), trainer, hw.All())
        one = hw.Run(algorithm, data, hw.Task(lambda: torch.nn.Linear(4, 3)), rounds=1, seed=2)
        message = Message(one.state.params)
        return one.engine.ask(Ask(Train(message), tuple(data.clients), steps=steps)).total.value().delta

    whole, seven = hw.LocalSGD(batch_size=4, epochs=5), hw.LocalSGD(batch_size=4, steps=7)
    assert torch.equal(final(whole, dict.fromkeys(data.clients, 7)), final(seven, {}))
    assert not torch.equal(final(whole, {}), final(seven, {}))


def test_nobody_is_cut_short_who_is_in_time():
    quorum = hw.Quorum(deadline_s=1e6, work="partial")
    one, _ = run(hw.ClockEngine(fleet=SLOW), quorum=quorum)
    plain, _ = run(hw.LocalEngine(), quorum=hw.Quorum())
    assert torch.equal(one.state.params, plain.state.params)


def test_who_manages_no_step_is_late():
    quorum = hw.Quorum(deadline_s=0.25, work="partial")
    one, reports = run(hw.ClockEngine(fleet=SLOW), quorum=quorum, rounds=2)
    assert {c.reason for r in reports for c in r.clients} == {"the round was over before it answered"}
    assert torch.equal(one.state.params, one.flat_module.shared)
    assert reports[1].clock["ended_s"] == 0.5


def test_a_window_is_filled():
    """The fast do more than the trainer says, the slow less, and the round ends with the window."""
    window = times()[3]
    quorum = hw.Quorum(deadline_s=window, work="window")
    one, reports = run(hw.ClockEngine(fleet=SLOW), quorum=quorum, rounds=2)
    whole = {client: -(-len(one.data.train[client]) // 3) * 3 for client in one.data.clients}
    more = [c.steps > whole[c.client] for r in reports for c in r.clients if c.status == "counted"]
    assert any(more)
    assert not all(more)
    first = reports[0]
    for client in first.clients:
        device = SLOW.device(client.client, one.engine.key)
        slack = window - client.metrics["ended_s"]
        assert 0 <= slack < device.seconds(3, 0, 0)
    lanes, _ = run(hw.ClockEngine(hw.LocalEngine(lanes=4), SLOW), quorum=quorum, rounds=2)
    torch.testing.assert_close(lanes.state.params, one.state.params, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("work", ["partial", "window"])
@pytest.mark.parametrize("late", ["drop", "keep"])
def test_a_resumed_run_goes_on(tmp_path, work, late):
    quorum = hw.Quorum(count=3, deadline_s=times()[2], work=work, late=late)

    def part(folder, rounds, resume=False):
        options = {"folder": tmp_path / folder, "resume": resume, "checkpoint_every": 2}
        return run(hw.ClockEngine(fleet=SLOW), quorum=quorum, rounds=rounds, **options)

    whole, reports = part("whole", 7)
    part("parts", 3)
    again, rest = part("parts", 7, resume=True)
    assert torch.equal(whole.state.params, again.state.params)
    assert [(r.clock, counted(r)) for r in reports[3:]] == [(r.clock, counted(r)) for r in rest]


@pytest.mark.parametrize("work", ["partial", "window"])
def test_it_needs_a_deadline(work):
    with pytest.raises(hw.ConfigError, match=r"no deadline limits the answer.*give Quorum\.deadline_s"):
        hw.Quorum(work=work)


def test_a_window_needs_clients_that_take_time():
    with pytest.raises(hw.ConfigError, match=r"they would never end: say how many examples"):
        made(hw.ClockEngine(), quorum=hw.Quorum(deadline_s=5.0, work="window"))


def test_a_trainer_that_cannot_stop_is_refused():
    class Whole(hw.Trainer):
        @property
        def facts(self):
            return hw.LocalSGD().facts.__class__("Whole")

        def drops(self, client_key):
            return False

        def train(self, work):
            raise AssertionError

    quorum = hw.Quorum(deadline_s=5.0, work="partial")
    with pytest.raises(hw.ChainRefused, match="a trainer that can stop after any local step"):
        hw.Algorithm(hw.chain(hw.Mean()), Whole(), hw.All(), quorum)
