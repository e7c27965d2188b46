"""Steps on a device without values: whatever reads a number, or mixes devices, fails (see `pretend`)."""

import pytest
import torch
from pretend import NOWHERE, NoReads, Wrong
from torch import Tensor, nn
from toys import blobs

import headway as hw
from headway.client.client_algorithm import ClientAlgorithm
from headway.client.client_training import ClientTraining
from headway.client.group_facts import GroupFacts
from headway.data.dataset.client_index import ClientIndex
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key
from headway.protocol.messages import Ask, Message, Train
from headway.training.call_trace import CallTrace
from headway.training.local_loop import LocalLoop, batches_of
from headway.training.step_storage import Float16Steps, StepPlan, _Rows, _Sum
from headway.vectorized.batched_sgd import BatchedLoop, BatchedSGD
from headway.vectorized.client_batch import ClientBatch
from headway.vectorized.low_rank import LowRank

KEY = Key.root(3)
HEAVY = hw.LocalSGD(
    lr=0.1,
    batch_size=4,
    epochs=2,
    momentum=0.9,
    nesterov=True,
    weight_decay=0.01,
    clip_gradient=1.0,
    schedule=hw.Schedule(kind="step", over="epochs", factor=0.5),
)
CHAINS = {
    "scaffold": hw.chain(hw.FedProx(mu=0.1), hw.Scaffold(), hw.Mean()),
    "steering": hw.chain(hw.Scaffold(correct="step"), hw.Mean()),
    "feddyn and steps": hw.chain(hw.FedDyn(alpha=0.1), hw.ECGR(), hw.Mean(over="clients")),
}


def picture():
    """A convolution, dropout of channels and of numbers, and layers."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)),
        nn.Conv2d(1, 3, 3),
        nn.ReLU(),
        nn.Dropout2d(0.2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(12, 3),
    )


def layers():
    return nn.Sequential(nn.Linear(16, 9), nn.Tanh(), nn.Linear(9, 3))


class There:
    """A flat module that has no values, the clients' examples there, and what they are asked in the first round."""

    def __init__(self, chain, trainer, make):
        self.data = blobs(sizes=(7, 12, 5), features=16)
        self.flat_module = FlatModule(hw.Task(make), KEY, NOWHERE)
        self.store = NOWHERE.examples(self.data.store)
        algorithm = hw.Algorithm(chain, trainer, hw.All())
        self.clients = ClientAlgorithm(algorithm, self.flat_module, algorithm.flows(), KEY, measure=True)
        start = self.flat_module.shared.clone()
        message = Message(start, chain.broadcast(chain.init(start)))
        self.ask = Ask(Train(message), tuple(self.data.clients))

    def batch(self):
        clients = self.ask.cohort
        rows, sizes = ClientIndex.of(self.data.train).rows(clients)
        return ClientBatch(clients, self.clients.client_keys(clients, 0), self.store, rows, sizes)

    def work(self, batch):
        memory = {
            label: {name: tensor.expand(len(batch), -1).clone() for name, tensor in kept.items()}
            for label, kept in self.clients.remembered(self.ask.message).items()
        }
        return ClientTraining(self.clients).prepare_batch(batch, self.ask, memory)

    def prepared(self, client, examples):
        facts = GroupFacts.of(self.clients, self.ask, [client], torch.tensor([len(examples)]))
        return ClientTraining(self.clients).prepare(facts, 0, examples, None, CallTrace(client))


@pytest.mark.parametrize("tape", [None, _Rows, Float16Steps, _Sum])
@pytest.mark.parametrize("chain", CHAINS)
def test_steps_of_one_client(chain, tape):
    there = There(CHAINS[chain], HEAVY, picture)
    flat_module, plan = (
        there.flat_module,
        StepPlan("full", 6, there.flat_module.layout.size, there.flat_module.layout.size, 0),
    )
    tapes = {
        None: lambda: None,
        _Rows: lambda: _Rows(flat_module, plan, flat_module.shared, slice(0, plan.size)),
        Float16Steps: lambda: Float16Steps(flat_module, plan),
        _Sum: lambda: _Sum(flat_module.shared, flat_module.shared, torch.ones(6, dtype=torch.float64)),
    }
    examples = there.store.take(there.data.train["client-1"])
    work = there.prepared("client-1", examples)
    loop = LocalLoop(HEAVY.plan, work, work.client_steps, tapes[tape]())
    with NoReads():
        for inputs, targets, lr in batches_of(work, work.client_steps):
            loop.step(inputs, targets, lr)
    assert loop.count == 6
    assert all(loss.is_meta for loss in loop.losses)
    assert all(length.is_meta for length in loop.lengths)
    assert flat_module.shared.is_meta


@pytest.mark.parametrize("chain", CHAINS)
def test_steps_side_by_side(chain, monkeypatch):
    """Of 7, 12 and 5 examples, so that lanes end early and learning rates differ among them."""
    monkeypatch.setattr(BatchedSGD, "_mixes", lambda *_: None)  # which compares numbers, and a meta tensor has none
    there = There(CHAINS[chain], HEAVY, picture)
    lanes = BatchedSGD(HEAVY.plan, there.flat_module)
    assert lanes.probe(there.store.rows(0, 2)) is None
    batch, plan = lanes.plan(there.batch(), there.ask)
    program = BatchedLoop(lanes, there.work(batch), plan.table)
    with NoReads():
        program.run()
    assert plan.table.counts.tolist() == [6, 4, 4]
    for made in (program.vectors, program.losses, program.steps, program.squares):
        assert made is None or made.is_meta


@pytest.mark.parametrize(("make", "momentum"), [(layers, 0.9), (picture, 0.0)], ids=["layers", "picture"])
def test_steps_without_weights_of_ones_own(make, momentum, monkeypatch):
    """The model is copied to the flat module and the numbers back; between these all is done there."""
    trainer = hw.LocalSGD(lr=0.1, batch_size=4, momentum=momentum)
    there = There(hw.chain(hw.Mean()), trainer, make)
    there.flat_module.channels_last = True
    lowrank, lanes = LowRank(trainer.plan, there.flat_module), BatchedSGD(trainer.plan, there.flat_module)
    assert lowrank.probe(there.store) is None
    batch, plan = lanes.plan(there.batch(), there.ask)
    work = there.work(batch)
    back: list[Tensor] = []

    def cpu(self):
        if self.is_meta:
            back.append(self)
            return torch.zeros(self.shape, dtype=self.dtype)
        return self

    monkeypatch.setattr(Tensor, "cpu", cpu)
    with NoReads():
        summed = lowrank.train(work, plan)
        total = summed.total(torch.ones(3, dtype=torch.float64))
    assert total.is_meta
    assert len(back) == 2  # the inner products and the losses


def test_what_reads_is_found():
    class Reads(hw.Stage):
        place = hw.Place.STEP

        def step(self, grad, w, memory, ctx):
            return grad if float(grad.sum()) > 0 else -grad

    there = There(hw.chain(Reads(), hw.Mean()), HEAVY, layers)
    examples = there.store.take(there.data.train["client-0"])
    work = there.prepared("client-0", examples)
    batch = next(batches_of(work, work.client_steps))
    with pytest.raises(RuntimeError, match="meta"), NoReads():
        LocalLoop(HEAVY.plan, work, work.client_steps, None).step(*batch)
    with pytest.raises(Wrong, match="mixes devices"), NoReads():
        there.flat_module.shared @ torch.ones(there.flat_module.layout.size)
