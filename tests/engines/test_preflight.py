"""Before the first round the whole path is tried once: what cannot work fails by its name, and leaves nothing."""

import random
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from mk import blobs as points
from mk import toml
from torch import nn
from toys import blobs, linear_task

import headway as hw

TRAINER = hw.LocalSGD(lr=0.1, batch_size=5)


def start(task, data=None, chain=None, **options):
    algorithm = hw.Algorithm(chain or hw.chain(hw.Mean()), TRAINER, hw.All())
    return hw.Run(algorithm, data or blobs(), task, rounds=2, **options)


def broken_metric(outputs, targets):
    raise KeyError("no such label")


@dataclass(frozen=True)
class Broken(hw.Stage):
    """Fails at the server."""

    place: ClassVar[hw.Place] = hw.Place.SERVER

    def receive(self, update, state, ctx):
        raise ZeroDivisionError("on purpose")


def test_a_layer_of_the_wrong_size_is_named_with_what_it_needs():
    task = hw.Task(lambda: nn.Sequential(nn.Linear(4, 5), nn.Linear(6, 3)))
    with pytest.raises(
        hw.ClientFailed, match=r"client 'client-0' failed .* at layer '1' \(Linear\), which takes 6 .*5\]"
    ):
        start(task)


def test_a_metric_that_fails_is_named_before_any_round(tmp_path):
    with pytest.raises(hw.ClientFailed, match=r"client 'client-0' failed in the metric 'broken_metric'.*KeyError"):
        start(hw.Task(lambda: nn.Linear(4, 3), metrics=(broken_metric,)), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_fails_on_the_central_test_set_only_is_named():
    data = hw.FederatedData.from_clients(
        {"a": (torch.zeros(4, 4), torch.arange(4) % 3)}, central=(torch.ones(2, 4), [0, 1])
    )

    class Odd(nn.Linear):
        def forward(self, x):
            return super().forward(x) if self.training else self.missing

    with pytest.raises(hw.HeadwayError, match=r"the central test set failed in the model's forward pass.*missing"):
        start(hw.Task(lambda: Odd(4, 3)), data)


def test_a_loss_that_fails_in_evaluation_is_named():
    def loss(outputs, targets):
        assert outputs.requires_grad, "only in training"
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    with pytest.raises(
        hw.ClientFailed, match=r"client 'client-0' failed in the loss, in evaluation .*only in training"
    ):
        start(hw.Task(lambda: nn.Linear(4, 3), loss=loss))


def test_a_client_that_is_never_drawn_is_not_tried():
    class Picky(nn.Linear):
        def forward(self, x):
            if self.training and float(x.min()) < -100:
                raise ValueError("not this one")
            return super().forward(x)

    x, y = torch.randn(8, 4), torch.arange(8) % 3
    data = hw.FederatedData.from_clients({"a": (x - 1000, y), "b": (x, y)})
    algorithm = hw.Algorithm(hw.chain(hw.Mean()), TRAINER, hw.Fixed(clients=("b",)))
    assert len(list(hw.rounds(algorithm, data, hw.Task(lambda: Picky(4, 3)), rounds=2))) == 2


def test_a_stage_that_fails_at_the_server_is_named():
    with pytest.raises(hw.HeadwayError, match=r"Broken.receive failed .* ZeroDivisionError: on purpose"):
        start(linear_task(), chain=hw.chain(hw.Mean(), Broken()))


def test_the_command_says_it_in_a_sentence_and_leaves_no_folder(headway, tmp_path):
    x, y = points()
    np.savez("plain.npz", x=x, y=y, client=np.arange(240) % 6)
    (tmp_path / "own_wrong.py").write_text("import torch\ndef net(outputs):\n    return torch.nn.Linear(7, outputs)\n")
    toml("plain.toml", 'source = "plain.npz"', 'name = "own_wrong:net"')
    code, _, err = headway("run", "plain.toml", "--out", "out")
    assert code == 1
    assert "takes 7 numbers in the last axis and was given [8, 10]" in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_the_trial_leaves_no_trace():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.norm, self.calls = nn.Linear(4, 3), nn.BatchNorm1d(3), 0

        def forward(self, x):
            self.calls += 1
            return self.norm(self.body(x + np.random.normal() + random.random() + torch.rand(()))) + self.calls

    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    before = torch.get_rng_state(), repr(np.random.get_state(legacy=False)), random.getstate()
    data = blobs()
    held = data.fingerprint()
    run = start(hw.Task(Noisy, buffers="average"), data)
    flat_module = run.engine.execution.setup.flat_module
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (repr(np.random.get_state(legacy=False)), random.getstate()) == before[1:]
    assert data.fingerprint() == held
    assert torch.equal(flat_module.statistics(), run.flat_module.statistics())
    assert torch.equal(flat_module.shared, run.flat_module.shared)
    assert flat_module.module.calls == 0
    assert int(flat_module.module.norm.num_batches_tracked) == 0
    assert not list(run.memory.clients())
    run.close()


@pytest.mark.parametrize("mode", ["real", "ideal"])
def test_a_secure_sum_is_tried_to_its_end(monkeypatch, mode):
    """Enough clients exchange keys, mask and reveal, so that the server's stages see the sum of the trial."""
    masked = hw.SecureSum(min_cohort=3, min_survivors=3, mode=mode)
    chain = hw.chain(hw.Clip(1.0), hw.Quantize(16), masked, hw.Mean("clients"), Broken())
    with pytest.raises(hw.HeadwayError, match=r"Broken\.receive failed on a trial update"):
        start(linear_task(), blobs((4, 5, 6, 7)), chain)
    run = start(linear_task(), blobs((4, 5, 6, 7)), hw.chain(*list(chain)[:-1]))
    assert not any("exchanges" in notice for notice in run.notices)
    run.close()


def test_the_exchanges_of_many_clients_are_left_to_the_first_round(monkeypatch):
    monkeypatch.setattr("headway.engines.preflight.MOST_MEMBERS", 2)
    chain = hw.chain(hw.Clip(1.0), hw.Quantize(16), hw.SecureSum(min_cohort=3, min_survivors=3), hw.Mean("clients"))
    with pytest.raises(hw.HeadwayError, match="Linear"):
        start(hw.Task(lambda: nn.Linear(3, 3)), blobs((4, 5, 6, 7)), chain)
    run = start(linear_task(), blobs((4, 5, 6, 7)), chain)
    assert sum("the exchanges of SecureSum were not tried" in notice for notice in run.notices) == 1
    assert "need 3 clients and a trial takes 2 at most" in " ".join(run.notices)
    run.close()
