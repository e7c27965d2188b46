"""Ray workers: the same bits as worker processes, also when workers, keepers of memory or nodes are lost."""

import contextlib
import os
import sys

import pytest
import torch
from torch import nn
from toys import blobs

import headway as hw
from headway.engines.keepers import COPIES

ray = pytest.importorskip("ray", reason='Ray is not installed: pip install "headway[ray]"')

SIZES = tuple(range(3, 30))
TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2, momentum=0.5)


def started(recipe, engine, rounds=3, trainer=TRAINER, make=None, **options):
    algorithm = hw.recipes.recipe(recipe, trainer=trainer)
    task = hw.Task(make or (lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))))
    return hw.Run(algorithm, blobs(sizes=SIZES), task, rounds=rounds, engine=engine, seed=3, **options)


def kept(run):
    return {client: run.memory.get(client) for client in run.memory.clients()}


def trained(recipe, engine, between=None, **options):
    """The end of a run: its state, what each client keeps, its reports."""
    run, reports = started(recipe, engine, **options), []
    try:
        for report in run:
            reports.append(report)
            if between is not None:
                between(run)
        return run.state.params, kept(run), reports
    finally:
        run.close()


def same(one, other):
    (params, memory, reports), (others, other_memory, other_reports) = one, other
    assert torch.equal(params, others)
    for mine, theirs in zip(reports, other_reports, strict=True):
        assert (mine.train_loss, mine.drift, mine.metrics) == (theirs.train_loss, theirs.drift, theirs.metrics)
        assert mine.bytes_up == theirs.bytes_up
        for a, b in zip(mine.clients, theirs.clients, strict=True):
            assert (a.client, a.status, a.steps, a.metrics) == (b.client, b.status, b.steps, b.metrics)
    assert memory.keys() == other_memory.keys()
    for client, labels in memory.items():
        for label, named in labels.items():
            for name, tensor in named.items():
                assert torch.equal(tensor, other_memory[client][label][name])


@contextlib.contextmanager
def alone():
    """A cluster for several runs."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


@pytest.fixture(scope="module")
def cluster():
    with alone():
        yield


@pytest.mark.parametrize("recipe", ["fedavg", "scaffold+ecgr"])
@pytest.mark.parametrize("lanes", [1, 4])
def test_the_bits_are_those_of_worker_processes(cluster, recipe, lanes):
    processes = trained(recipe, hw.ProcessEngine(2, lanes=lanes))
    same(processes, trained(recipe, hw.RayEngine(2, lanes=lanes)))
    assert ray.is_initialized(), "a cluster that was there before stays"


def test_a_worker_that_is_killed_is_replaced_and_nothing_changes(cluster):
    def kill(run):
        ray.kill(run.engine.crew[0].actor)

    whole = trained("scaffold+ecgr", hw.ProcessEngine(1, lanes=4))
    same(whole, trained("scaffold+ecgr", hw.RayEngine(2, lanes=4), kill))
