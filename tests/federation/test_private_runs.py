"""A server keeps a privacy ledger as a simulation does: before noise, before clients are asked, across a restart."""

import pytest
import torch
from network import Network
from toys import blobs, linear_task

import headway as hw
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.spool import Spool
from headway.privacy.accountant import epsilon
from headway.privacy.ledger_file import LEDGER, read_entries
from headway.privacy.spends import Spend

ROUNDS = 3
CHAINS = {
    "at the server": (hw.Clip(1.0), hw.Mean("expected"), hw.GaussianNoise(2.0)),
    "at the clients": (hw.Clip(1.0), hw.LocalGaussian(2.0), hw.Mean("expected")),
}


def served(folder, chain, privacy, resume=False):
    """The reports of a run over a network, the run, and how many lines the ledger had when each round was asked."""
    data, task = blobs((7, 12, 5)), linear_task(dtype="float64")
    algorithm = hw.Algorithm(hw.chain(*chain), hw.LocalSGD(lr=0.1, batch_size=4), hw.All())
    options = {"wait_limit_s": 120.0, "expected": frozenset(data.clients)}
    network = Network.of(algorithm, task, Spool(folder / "spool"), EventLog(folder), ROUNDS, **options)
    network.join(algorithm, task, data, data.clients)
    made = {"folder": folder / "run", "resume": resume, "checkpoint_every": 1, "privacy": privacy}
    run = hw.Run(algorithm, data, task, rounds=ROUNDS, engine=network.engine, **made)
    asked, original = [], network.engine.ask

    def ask(ask):
        if type(ask.request).__name__ == "Train":
            asked.append(len(read_entries(folder / "run" / LEDGER)))
        return original(ask)

    network.engine.ask = ask
    try:
        return list(run), run, asked
    finally:
        run.close()
        network.close()


@pytest.mark.parametrize("name", CHAINS)
def test_a_server_writes_before_the_release(tmp_path, name):
    account = "client" if name == "at the server" else "local"
    budget = epsilon({Spend(2.0): 2}, 1e-5)
    reports, run, asked = served(tmp_path, CHAINS[name], hw.PrivacyOptions(epsilon=budget, delta=1e-5))
    expected = [epsilon({Spend(2.0): n}, 1e-5) for n in (1, 2)]
    assert [report.privacy[account] for report in reports] == expected
    assert asked == ([1, 2] if account == "client" else [2, 3])  # the messages are the release where clients add noise
    assert "allows no round 3" in run.stopped_because
    assert torch.isfinite(run.state.params).all()
    again, resumed, asked = served(tmp_path, CHAINS[name], hw.PrivacyOptions(epsilon=budget, delta=1e-5), resume=True)
    assert (again, asked) == ([], [])
    assert "allows no round 3" in resumed.stopped_because
