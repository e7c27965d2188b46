"""Models that are not plain: frozen, tied, lazy, with normalised weights, with parts that stay with the clients."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from mk import blobs as points
from mk import toml
from torch import nn
from toys import blobs

import headway as hw

TRAINER = hw.LocalSGD(lr=0.1, batch_size=5, weight_decay=0.1, epochs=2)
OWN = """
import torch
from torch import nn

def frozen(shape, outputs):
    body = nn.Sequential(nn.Linear(shape[0], 16), nn.BatchNorm1d(16), nn.ReLU()).requires_grad_(False)
    return nn.Sequential(body, nn.Linear(16, outputs))

def lazy(outputs):
    return nn.Sequential(nn.LazyLinear(16), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(outputs))

def nothing(shape):
    return nn.Sequential(nn.BatchNorm1d(shape[0], affine=False))

def bn(shape, outputs):
    return nn.Sequential(nn.Linear(shape[0], 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, outputs))

class Tied(nn.Module):
    def __init__(self, words):
        super().__init__()
        self.embed = nn.Embedding(words, 16)
        self.out = nn.Linear(16, words, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        return self.out(self.embed(tokens).mean(1))

def tied(outputs):
    return Tied(outputs)
"""


def trained(model, rounds=3, engine=None, **options):
    algorithm = hw.Algorithm(hw.chain(hw.Mean()), TRAINER, options.pop("sampler", hw.All()))
    run = hw.Run(algorithm, blobs(), hw.Task(model, **options), rounds=rounds, engine=engine)
    run.reports = list(run)
    return run


@pytest.fixture
def files(headway, tmp_path):
    (tmp_path / "own_models.py").write_text(OWN)
    x, y = points()
    np.savez("plain.npz", x=x, y=y, client=np.arange(240) % 6)
    t = np.random.default_rng(0).integers(0, 30, (240, 5))
    np.savez("next.npz", x=t, y=t[:, 0], client=np.arange(240) % 6)
    for name, source in {"frozen": "plain", "lazy": "plain", "nothing": "plain", "tied": "next", "bn": "plain"}.items():
        toml(f"{name}.toml", f'source = "{source}.npz"', f'name = "own_models:{name}"', task='buffers = "average"')
    return headway


def test_statistics_of_a_frozen_layer_stay_still_and_are_not_sent():
    body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)).requires_grad_(False)
    body[1].running_mean += 3
    run = trained(lambda: nn.Sequential(body, nn.Linear(5, 3)))
    assert run.state.buffers is None
    model = run.model()
    assert torch.equal(model[0][1].running_mean, body[1].running_mean)
    assert torch.equal(model[0][0].weight, body[0].weight)
    assert run.flat_module.layout.size == 18
    assert model.train()[0][1].training


def test_statistics_of_a_layer_that_trains_move_beside_a_frozen_one():
    def model():
        return nn.Sequential(
            nn.Linear(4, 5), nn.BatchNorm1d(5).requires_grad_(False), nn.BatchNorm1d(5), nn.Linear(5, 3)
        )

    made = trained(model, buffers="average").model()
    assert torch.equal(made[1].running_var, torch.ones(5))
    assert not torch.equal(made[2].running_var, torch.ones(5))


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_computed_from_others_are_trained(norm):
    run = trained(lambda: nn.Sequential(norm(nn.Linear(4, 4)), nn.Linear(4, 3)))
    losses = [report.train_loss for report in run.reports]
    assert losses[-1] < losses[0]
    assert torch.isfinite(run.model()(torch.ones(2, 4))).all()


@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_computed_train_with_a_term_that_copies_the_model():
    def model():
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 3))

    assert len(list(hw.rounds(hw.recipes.moon(trainer=TRAINER), blobs(), hw.Task(model), rounds=3))) == 3


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_lazy_model_is_completed_by_an_example_of_the_data(lanes):
    def model():
        return nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(3))

    one, two = (trained(model, engine=hw.LocalEngine(lanes=lanes)) for _ in range(2))
    assert torch.equal(one.state.params, two.state.params)
    assert one.model()[0].weight.shape == (6, 4)


def test_a_lazy_model_that_fails_on_the_example_is_refused():
    with pytest.raises(hw.ConfigError, match=r"lazy layers \(0.weight\), and fails on the input of shape \[1, 4\]"):
        trained(lambda: nn.Sequential(nn.LazyConv2d(3, 3)))


def test_a_task_alone_says_how_a_lazy_model_is_completed():
    with pytest.raises(hw.ConfigError, match=r"give Task\.example"):
        hw.Task(lambda: nn.LazyLinear(3)).build(hw.numerics.keys.Key.root(0))


def test_the_commands_run_frozen_lazy_and_tied_models_and_refuse_an_empty_one(files):
    for name in ("frozen", "lazy", "tied"):
        code, _, err = files("run", f"{name}.toml", "--out", f"m_{name}")
        assert (code, err) == (0, ""), name
        assert files("export", f"m_{name}")[0] == 0
    code, _, err = files("run", "nothing.toml")
    assert code == 1
    assert "has no trainable parameter" in err


def test_a_tie_survives_rounds_resume_and_export(files):
    import own_models

    assert files("run", "tied.toml", "--out", "tie", "--rounds", 2)[0] == 0
    assert files("resume", "tie", "--rounds", 4)[0] == 0
    assert files("export", "tie")[0] == 0
    state = safetensors.torch.load_file("tie/model.safetensors")
    model = own_models.tied(30)
    assert not torch.equal(model.out.weight, state["out.weight"])
    model.load_state_dict(state)
    assert model.out.weight is model.embed.weight
    assert torch.equal(state["out.weight"], state["embed.weight"])


class TestWhatStaysWithTheClients:
    def norms(self):
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))

    def accuracy(self, model, data, client):
        part = data.test_of(client)
        return float((model.eval()(part.inputs).argmax(1) == part.targets).double().mean())

    @pytest.mark.parametrize("options", [{"buffers": "local"}, {"buffers": "average", "shared": ("0.*", "1.*")}])
    def test_a_clients_own_model_is_the_one_that_was_evaluated(self, options):
        run = trained(self.norms, **options)
        for client, scores in run.reports[-1].evaluation.items():
            assert self.accuracy(run.model(client=client), run.data, client) == pytest.approx(scores["accuracy"])

    def test_the_servers_model_is_refused_where_it_is_nobodys(self):
        run = trained(self.norms, buffers="local")
        with pytest.raises(hw.ConfigError, match=r"statistics stay with each client.*run.model\(client=...\)"):
            run.model()
        with pytest.raises(hw.ConfigError, match="no client 'client-9'"):
            run.model(client="client-9")

    def test_clients_that_were_never_counted_are_named(self):
        run = trained(self.norms, buffers="local", sampler=hw.Fixed(clients=("client-0",)))
        said = [note for report in run.reports for note in report.notes]
        assert len(said) == 2
        assert said[0].startswith("2 of 3 clients have not been counted in a round yet and are evaluated with initial")
        assert said[0].endswith("statistics: client-1, client-2.")
        with pytest.warns(UserWarning, match="'client-1' has not been counted"):
            run.model(client="client-1")

    def test_plain_models_say_nothing(self):
        run = trained(lambda: nn.Linear(4, 3), sampler=hw.Fixed(clients=("client-0",)))
        assert not any(report.notes for report in run.reports)
        assert torch.equal(run.model("client-1").weight, run.model().weight)

    def test_the_command_exports_a_clients_own_model(self, files):
        local = ("--set", "task.buffers=local")
        assert files("run", "bn.toml", *local, "--out", "kept")[0] == 0
        code, out, _ = files("export", "kept")
        assert code == 0
        assert "headway export kept --client NAME" in out.replace("\n", " ")
        plain = safetensors.torch.load_file("kept/model.safetensors")
        assert torch.equal(plain["1.running_mean"], torch.zeros(16))
        code, out, _ = files("export", "kept", "--client", "client-3")
        assert code == 0
        assert "the model of client 'client-3' of round 3" in out
        own = safetensors.torch.load_file("kept/model-client-3.safetensors")
        assert not torch.equal(own["1.running_mean"], plain["1.running_mean"])
        assert torch.equal(own["0.weight"], plain["0.weight"])
        assert "no client 'client-33' (did you mean" in files("export", "kept", "--client", "client-33")[2]
        assert files("resume", "kept", "--rounds", 4)[0] == 0
        assert Path("kept/memory.sqlite").exists()
