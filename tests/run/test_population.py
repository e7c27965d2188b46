"""A run's rounds cost what the cohort costs, whatever the population."""

import numpy as np
import pytest
import torch
from torch import nn

import headway as hw
from headway.data import FederatedData, NumberedNames
from headway.data.dataset.labels import LabelCounts
from headway.data.dataset.owners import client_ids
from headway.engines import LocalEngine
from headway.observe.alarms import common_labels

CLIENTS = 3000


def data(test_share: float = 0.5, central: bool = False) -> FederatedData:
    generator = torch.Generator().manual_seed(0)
    store = hw.Examples(torch.randn(2 * CLIENTS, 3, generator=generator), torch.arange(2 * CLIENTS) % 2)
    held = hw.Examples(torch.randn(8, 3, generator=generator), torch.arange(8) % 2) if central else None
    return FederatedData.in_order("many", store, clients=CLIENTS, test_share=test_share, central=held, classes=2)


def start(held: FederatedData, **options) -> hw.Run:
    chain = hw.chain(hw.Mean(), hw.ServerSGD())
    algorithm = hw.Algorithm(chain, hw.LocalSGD(lr=0.1, batch_size=4), hw.Uniform(count=5))
    return hw.Run(algorithm, held, hw.Task(lambda: nn.Linear(3, 2)), **{"rounds": 3, "evaluate_every": None} | options)


def bits(run: hw.Run) -> bytes:
    list(run)
    run.close()
    return run.state.params.numpy().tobytes()


def test_names_made_when_asked_give_the_same_bits_as_names_in_memory():
    lazy = data()
    names = client_ids(CLIENTS)
    assert isinstance(lazy.clients, NumberedNames)
    plain = FederatedData(
        "many", lazy.store, {c: lazy.train[c] for c in names}, {c: lazy.test[c] for c in names}, classes=2
    )
    assert lazy.fingerprint() == plain.fingerprint()
    assert bits(start(lazy)) == bits(start(plain))


def test_nobody_but_the_cohort_is_named_or_counted(monkeypatch):
    held = data(central=True)
    named: list[int] = []
    make = NumberedNames._name

    def counted(names, number):
        named.append(number)
        return make(names, number)

    monkeypatch.setattr(NumberedNames, "_name", counted)
    run = start(held)
    for _ in run:
        pass
    assert 0 < len(named) <= 5 * 3 + 20  # and the few whose loss is measured before the first round


def test_never_evaluated_means_only_the_central_test_set_at_the_end():
    reports = list(start(data(central=True)))
    assert [dict(report.metrics) for report in reports] == [{}, {}, {}]
    assert [set(report.central) for report in reports] == [set(), set(), {"accuracy", "loss"}]
    assert not any(report.evaluation for report in reports)
    with pytest.raises(hw.ConfigError, match="evaluate_every must be at least 1, found 0"):
        start(data(), evaluate_every=0)


def test_the_last_round_is_evaluated_otherwise():
    reports = list(start(data(), evaluate_every=99))
    assert [len(report.evaluation) for report in reports] == [0, 0, CLIENTS]
    assert set(list(start(data(test_share=0.0), evaluate_every=99))[-1].evaluation) == set()


def test_the_engine_gives_the_same_population_in_every_round():
    run = start(data())
    assert run.engine.clients() is run.engine.clients() is run.data.clients
    assert isinstance(run.engine, LocalEngine)


def test_a_run_neither_converts_nor_copies_a_store_that_fits(tmp_path):
    held = data()
    np.save(tmp_path / "x.npy", held.store.inputs.numpy())
    np.save(tmp_path / "y.npy", held.store.targets.numpy())
    mapped = hw.data.mapped(tmp_path, clients=CLIENTS, test_share=0.5)
    run = start(mapped, folder=tmp_path / "run")
    assert run.data.store.inputs.data_ptr() == mapped.store.inputs.data_ptr()
    assert bits(run) == bits(start(held))


def test_a_run_file_may_say_never(tmp_path):
    from headway.experiment.runfile import load_runfile

    runfile = load_runfile("hospitals", ["run.evaluate_every='never'", "run.rounds=2"])
    again = tmp_path / "again.toml"
    again.write_text(runfile.to_toml())
    run = load_runfile(str(again)).start()
    assert run.options.evaluate_every is None
    assert not any(report.metrics for report in run)
    with pytest.raises(hw.ConfigError, match=r'run\.evaluate_every must be a whole number from 1 or "never", found 0'):
        load_runfile("hospitals", ["run.evaluate_every=0"])


def test_what_clients_have_in_common_is_the_same_of_counts_made_when_asked():
    labels = torch.tensor([0, 0, 0, 1, 2, 1, 2, 2])
    held = FederatedData.in_order("l", hw.Examples(torch.zeros(8, 1), labels), clients=4, classes=3)
    eager = {each.client: each.labels for each in held.summary()}
    for named in (["client-0"], ["client-1"], ["client-2", "client-3"], list(eager), ["unknown"], []):
        assert common_labels(named, LabelCounts(held)) == common_labels(named, eager)
    assert common_labels(["client-0"], LabelCounts(held)) == (0,)
