"""A setting near one that does nothing is near what nothing does: no method jumps."""

import pytest
import torch
from toys import blobs, linear_task

import headway as hw

SCHEDULES = {"constant": hw.Schedule(), "epochs": hw.Schedule(kind="step", over="epochs", factor=0.5)}


def trained(*parts, momentum=0.9, schedule="constant", engine=None, rounds=3, nesterov=False):
    trainer = hw.LocalSGD(
        0.05, batch_size=4, epochs=3, momentum=momentum, nesterov=nesterov, schedule=SCHEDULES[schedule]
    )
    task = hw.Task(model=lambda: torch.nn.Linear(4, 3, dtype=torch.float64), dtype="float64")
    run = hw.Run(
        hw.Algorithm(hw.chain(*parts), trainer, hw.All()), blobs((30, 7, 3)), task, rounds=rounds, engine=engine
    )
    list(run)
    return run.state.params


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.5, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("lanes", [1, 3])
def test_fednova_is_continuous_in_the_strength_of_the_pull(momentum, nesterov, schedule, lanes) -> None:
    options = {"momentum": momentum, "nesterov": nesterov, "schedule": schedule}

    def at(mu):
        engine = hw.LocalEngine(lanes=lanes)
        return trained(hw.FedProx(mu), hw.FedNova(), hw.Mean(), engine=engine, **options)

    none, least, some = at(0.0), at(1e-9), at(1e-3)
    torch.testing.assert_close(least, none, rtol=0, atol=1e-7)
    torch.testing.assert_close(some, none, rtol=0, atol=0.1)
    assert not torch.equal(some, none)


NEAR = {
    "FedProx": (hw.FedProx(1e-9), hw.Mean()),
    "QFedAvg": (hw.QFedAvg(1e-9), hw.Mean("clients")),
    "ECGR": (hw.ECGR(select=1.0, beta=1 - 1e-9), hw.Mean()),
    "Clip": (hw.Clip(1e6), hw.Mean()),
    "WeighByQuality": (hw.WeighByQuality(floor=1 - 1e-9), hw.Mean()),
    "ServerSGD": (hw.Mean(), hw.ServerSGD(momentum=1e-9)),
}


@pytest.mark.parametrize("name", NEAR)
def test_a_setting_that_hardly_does_anything_is_near_fedavg(name) -> None:
    plain = trained(hw.QFedAvg(0.0), hw.Mean("clients")) if name == "QFedAvg" else trained(hw.Mean())
    torch.testing.assert_close(trained(*NEAR[name]), plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "parts", [(hw.FedNova(), hw.Mean()), (hw.QFedAvg(), hw.Mean("clients")), (hw.Scaffold(), hw.Mean())]
)
def test_a_learning_rate_of_zero_learns_nothing_and_is_no_divergence(parts) -> None:
    trainer = hw.LocalSGD(0.05, batch_size=4, schedule=hw.Schedule(kind="linear", horizon=2))
    run = hw.Run(hw.Algorithm(hw.chain(*parts), trainer, hw.All()), blobs(), linear_task(), rounds=4)
    models = [(run.state.params, report)[0] for report in run]
    assert not torch.equal(models[0], models[1])
    assert torch.equal(models[2], models[1])
    assert torch.equal(models[3], models[1])
