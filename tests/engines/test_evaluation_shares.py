"""A cohort that is evaluated in shares gives the numbers of the cohort evaluated whole, to the bit."""

import pytest
import torch
from toys import linear_task

import headway as hw
from headway.client.evaluation import BATCH, evaluate_clients
from headway.client_state.store import MemoryStore
from headway.data import FederatedData
from headway.engines.evaluation_shares import shares_of
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key
from headway.protocol.messages import Evaluate, Measure, Message

SIZES = {
    "small": [3, 0, 5],
    "a batch each": [BATCH] * 20,
    "across batches": [700, 0, 900, 1500, 1, 0, 3000, 400, 700, 20, 2100, 0, 5000, 1024, 9000, 30, 0],
    "nobody": [0, 0],
}


@pytest.mark.parametrize("case", SIZES)
def test_shares_cover_the_cohort_once_and_whole_batches(case):
    sizes = torch.tensor(SIZES[case])
    cohort = [f"client-{place}" for place in range(len(sizes))]
    reported, begins = [], (sizes.cumsum(0) - sizes).tolist()
    for clients, first, window in shares_of(cohort, sizes):
        assert clients == cohort[first : first + len(clients)]
        assert window.offset == begins[first] % BATCH
        reported += clients[window.first : window.stop]
        held = sizes[first : first + len(clients)]
        batches, place = window.batches(torch.arange(int(held.sum())) + begins[first], held)
        rows = torch.cat([torch.empty(0, dtype=torch.int64), *batches])
        own = rows[place]
        start = first + window.first
        assert own.tolist() == list(range(begins[start], begins[start] + len(own)))
        assert len(own) == int(held[window.first : window.stop].sum())
        assert not len(rows) or int(rows[0]) % BATCH == 0
        assert not len(rows) or (int(rows[-1]) + 1) % BATCH == 0 or int(rows[-1]) + 1 == int(sizes.sum())
    assert reported == cohort


def held(sizes):
    generator = torch.Generator().manual_seed(0)
    total = sum(sizes)
    x = torch.randn(total + len(sizes), 4, generator=generator)
    y = torch.randint(0, 3, (total + len(sizes),), generator=generator)
    train, test, at = {}, {}, 0
    for place, size in enumerate(sizes):
        name = f"client-{place:02d}"
        train[name], test[name] = torch.tensor([total + place]), torch.arange(at, at + size)
        at += size
    return FederatedData(name="made", store=hw.Examples(x, y), train=train, test=test)


def test_metrics_of_shares_are_those_of_the_whole():
    data, task = held(SIZES["across batches"]), linear_task()
    flat_module = FlatModule(task, Key.root(0))
    message, memory = Message(flat_module.shared.clone()), MemoryStore()
    whole, _ = evaluate_clients(flat_module, message, data, data.clients, memory)
    parts, sizes = {}, torch.tensor([len(data.test[client]) for client in data.clients])
    for clients, _, window in shares_of(data.clients, sizes):
        parts |= evaluate_clients(flat_module, message, data, clients, memory, window)[0]
    assert parts == whole
    assert list(parts) == list(whole)


def watch(local, asked, monkeypatch):
    """Notes the requests that are answered in this process."""
    answer = local.answer

    def noted(ask):
        asked.append(ask.request)
        return answer(ask)

    monkeypatch.setattr(local, "answer", noted)


@pytest.mark.parametrize("workers", [1, 3])
def test_clients_are_evaluated_and_measured_in_worker_processes(workers, monkeypatch):
    data, made = held([40, 30, 1100, 0, 900, 1300]), []
    for engine in (hw.LocalEngine(drift=False), hw.ProcessEngine(workers, lanes=1, drift=False)):
        algorithm = hw.Algorithm(hw.chain(hw.Mean()), hw.LocalSGD(lr=0.1, batch_size=4), hw.PowerOfChoice(2, 4))
        run = hw.Run(algorithm, data, linear_task(), rounds=3, engine=engine)
        asked = []
        if isinstance(engine, hw.ProcessEngine):
            watch(engine.local, asked, monkeypatch)
        made.append([report.evaluation for report in run])
        engine.close()
        assert not [each for each in asked if isinstance(each, Evaluate)]
        assert len([each for each in asked if isinstance(each, Measure)]) <= 1  # before there are workers
    assert made[0] == made[1]
