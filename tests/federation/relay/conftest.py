"""Relays and servers that end when their clients have heard of the end of a job, however long that takes."""

import pytest

from headway.federation.job_clients import JobClients
from headway.federation.relay import relay


@pytest.fixture(autouse=True)
def _long_farewells(monkeypatch):
    dismiss = JobClients.dismiss
    monkeypatch.setattr(relay, "GOODBYE_S", 60.0)
    monkeypatch.setattr(JobClients, "dismiss", lambda clients, state, reason, _: dismiss(clients, state, reason, 600.0))
