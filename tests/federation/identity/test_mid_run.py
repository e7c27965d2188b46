"""Certificates and a run: the weights are Local's, and a node that is revoked or expires is refused within a round."""

import contextlib
import dataclasses
import threading
from contextlib import closing

import pytest
import torch
from secured import Secured
from toys import blobs, linear_task

import headway as hw
from headway.federation.identity import admission
from headway.federation.identity.node_registry import NodeRegistry

ROUNDS = 4
SIZES = (7, 12, 5, 9)


@pytest.fixture
def parts():
    return blobs(SIZES), linear_task(dtype="float64"), hw.recipes.recipe("scaffold", trainer=hw.LocalSGD(lr=0.1))


@pytest.mark.parametrize("options", [{}, {"behind_proxy": True}], ids=["mtls", "behind proxy"])
def test_the_weights_are_those_of_the_local_engine(tmp_path, parts, options):
    data, task, algorithm = parts
    local = hw.Run(algorithm, data, task, rounds=ROUNDS)
    for _ in local:
        pass
    secured = Secured(tmp_path, data.clients, **options)
    with secured.network(algorithm, task, ROUNDS, expected=frozenset(data.clients), wait_limit_s=300.0) as network:
        network.join(algorithm, task, data, data.clients)
        run = hw.Run(algorithm, data, task, rounds=ROUNDS, engine=network.engine)
        reports = list(run)
    assert torch.equal(run.state.params, local.state.params)
    assert [report.count("counted") for report in reports] == [len(SIZES)] * ROUNDS


def run_with_a_break(tmp_path, parts, end_of):
    """Reports of a run in whose second round something ends the admission of a client, which has to answer then."""
    data, task, algorithm = parts
    victim = sorted(data.clients)[1]
    secured = Secured(tmp_path, data.clients)

    @contextlib.contextmanager
    def gate(client, assignment):
        if assignment.round >= 1 and assignment.kind == "train":
            network.engine.options = dataclasses.replace(network.engine.options, expected=frozenset())
            end_of(secured, victim)
        yield

    expected = frozenset(data.clients)
    with secured.network(algorithm, task, ROUNDS, wait_limit_s=300.0, expected=expected) as network:

        def refused():
            with pytest.raises(AssertionError, match="403"):
                network._answer(victim, algorithm, task, data, 0, gate)

        thread = threading.Thread(target=refused)
        thread.start()
        network.join(algorithm, task, data, [client for client in data.clients if client != victim])
        run = hw.Run(algorithm, data, task, rounds=ROUNDS, engine=network.engine)
        reports = list(run)
        (row,) = (row for row in network.members.snapshot() if row["name"] == victim)
        thread.join(60)
    return reports, row


def revoke(secured, victim):
    with closing(NodeRegistry.of(secured.folder / "ca")) as registry:
        registry.revoke(victim)


TIMES = [0, *(pytest.param(number, marks=pytest.mark.soak) for number in range(1, 5))]


@pytest.mark.parametrize("number", TIMES)
def test_a_node_that_is_revoked_in_a_round_is_refused_within_it(tmp_path, parts, number):
    reports, row = run_with_a_break(tmp_path, parts, revoke)
    assert [report.count("counted") for report in reports] == [4, 3, 3, 3]
    assert not row["present"]
    assert "was revoked at" in row["declined"]


@pytest.mark.parametrize("number", TIMES)
def test_a_node_whose_certificate_expires_in_a_round_is_refused_within_it(tmp_path, parts, monkeypatch, number):
    """Its certificate ends: for the others the time stays."""

    def expire(secured, victim):
        before = admission.CertifiedAdmission._check_state

        def check(called, issued):
            if called == victim:
                end = issued.certificate.not_after
                text = f"the certificate of {called!r} expired at {admission.moment(end)}."
                raise admission.NotAdmitted(text, 403, ended=called)
            before(called, issued)

        with lock:
            if not ended:
                ended.append(victim)
                monkeypatch.setattr(admission.CertifiedAdmission, "_check_state", staticmethod(check))

    ended, lock = [], threading.Lock()
    reports, row = run_with_a_break(tmp_path, parts, expire)
    assert [report.count("counted") for report in reports] == [4, 3, 3, 3]
    assert "expired at" in row["declined"]
