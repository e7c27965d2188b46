"""MOON against a direct implementation of its local loop, and what it refuses."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from conformance.reference import greedy_indices
from conformance.tiny import Listed
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from toys import blobs

import headway as hw
from headway.core.algorithm import Algorithm
from headway.core.flow import EngineFacts
from headway.data import batch_bounds, epoch_order
from headway.experiment.runfile import load_runfile
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key
from headway.training.loss_terms import contrast

SEED, LR, MOMENTUM, BATCH, EPOCHS, MU, T = 5, 0.05, 0.6, 4, 3, 2.5, 0.4
COHORTS = ((0, 1, 2), (0, 2), (1, 2), (0, 1, 2))  # client-1 misses the second round, client-0 the third


class Net(nn.Module):
    """A body, a projection head and an output layer, as in the paper."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        self.head = nn.Linear(6, 5)
        self.out = nn.Linear(5, 3)

    def forward(self, x):
        return self.out(self.head(self.body(x)))


TASK = hw.Task(model=Net, dtype="float64")
TRAINER = hw.LocalSGD(lr=LR, momentum=MOMENTUM, batch_size=BATCH, epochs=EPOCHS)
DATA = blobs(sizes=(7, 12, 5))
WIDE = DATA.to(torch.float64)


def network(vector):
    net = Net().double()
    vector_to_parameters(vector.clone(), net.parameters())
    return net


def local(x, previous, client, round_, correction):
    """Algorithm 1 of arXiv 2103.16257, as its authors' loop has it; the displacements of the client's steps."""
    net, fixed_global = network(x), network(x).eval()
    fixed_previous = network(x if previous is None else previous).eval()
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM)
    cosine, examples = nn.CosineSimilarity(dim=-1), WIDE.train_of(client)
    key, steps = Key.root(SEED).derive("client", round_).owned(client).derive("trainer"), []
    for epoch in range(EPOCHS):
        order = epoch_order(len(examples), key.derive("epoch", epoch), True)
        for begin, end in batch_bounds(len(examples), BATCH):
            inputs, targets = examples.inputs[order[begin:end]], examples.targets[order[begin:end]]
            before = parameters_to_vector(net.parameters()).detach()
            z = net.head(net.body(inputs))
            with torch.no_grad():
                z_global = fixed_global.head(fixed_global.body(inputs))
                z_previous = fixed_previous.head(fixed_previous.body(inputs))
            logits = torch.stack([cosine(z, z_global), cosine(z, z_previous)], dim=1) / T
            loss = F.cross_entropy(net.out(z), targets)
            loss = loss + MU * F.cross_entropy(logits, torch.zeros(len(targets), dtype=torch.int64))
            optimizer.zero_grad()
            loss.backward()
            place = 0
            for parameter in net.parameters():
                parameter.grad += correction[place : place + parameter.numel()].view_as(parameter)
                place += parameter.numel()
            optimizer.step()
            steps.append(parameters_to_vector(net.parameters()).detach() - before)
    return torch.stack(steps), parameters_to_vector(net.parameters()).detach()


def reaggregate(steps, select=0.5, beta=0.2):
    """ECGR, arXiv 2601.03584."""
    chosen = greedy_indices(steps.tolist(), select)
    left = [i for i in range(len(steps)) if i not in chosen]
    c = steps[chosen].sum(0) + beta * steps[left].sum(0)
    return c * steps.sum(0).norm() / c.norm()


def by_hand(ecgr, scaffold):
    x = FlatModule(TASK, Key.root(SEED)).shared.clone()
    previous = {}
    c, own = torch.zeros_like(x), {client: torch.zeros_like(x) for client in DATA.clients}
    for round_, cohort in enumerate(COHORTS):
        asked = [DATA.clients[i] for i in cohort]
        total, change = torch.zeros_like(x), torch.zeros_like(x)
        sizes = {client: 1 if scaffold else len(DATA.train[client]) for client in asked}
        for client in asked:
            correction = c - own[client] if scaffold else torch.zeros_like(x)
            steps, after = local(x, previous.get(client), client, round_, correction)
            previous[client] = after
            total += (reaggregate(steps) if ecgr else steps.sum(0)) * sizes[client] / sum(sizes.values())
            if scaffold:
                received = sum(LR * MOMENTUM**j for k in range(len(steps)) for j in range(len(steps) - k))
                new = own[client] - c - steps.sum(0) / received
                change += (new - own[client]) / len(DATA.clients)
                own[client] = new
        x, c = x + total, c + change
    return x, previous


def run(term, *stages, over="examples", rounds=4, task=TASK, data=DATA, **options):
    trainer = hw.LocalSGD(lr=LR, momentum=MOMENTUM, batch_size=BATCH, epochs=EPOCHS, loss_term=term)
    algorithm = Algorithm(hw.chain(*stages, hw.Mean(over)), trainer, options.pop("sampler", Listed(COHORTS)))
    made = hw.Run(algorithm, data, task, rounds=rounds, seed=SEED, evaluate_every=9, **options)
    return made, list(made)


@pytest.mark.parametrize("ecgr", [False, True])
@pytest.mark.parametrize("scaffold", [False, True])
@pytest.mark.parametrize("representation", ["head", None])
def test_agrees_with_the_direct_implementation(ecgr, scaffold, representation):
    stages = [*([hw.Scaffold()] if scaffold else []), *([hw.ECGR()] if ecgr else [])]
    term = hw.Moon(mu=MU, temperature=T, representation=representation)
    made, _ = run(term, *stages, over="clients" if scaffold else "examples")
    expected, previous = by_hand(ecgr, scaffold)
    torch.testing.assert_close(made.state.params, expected, rtol=1e-9, atol=1e-12)
    for client in DATA.clients:
        kept = made.memory.get(client)["trainer"]["previous"]
        torch.testing.assert_close(kept, previous[client], rtol=1e-9, atol=1e-12)
    plain, _ = run(None, *stages, over="clients" if scaffold else "examples")
    assert float((made.state.params - plain.state.params).norm()) > 1e-2


def test_without_weight_it_is_fedavg_to_the_bit():
    assert torch.equal(run(hw.Moon(mu=0.0))[0].state.params, run(None)[0].state.params)
    assert run(hw.Moon(mu=0.0))[0].memory.get("client-0") is None


def test_the_first_round_is_fedavg_to_the_bit_and_the_second_is_not():
    one, other = run(hw.Moon(mu=MU), rounds=1), run(None, rounds=1)
    assert torch.equal(one[0].state.params, other[0].state.params)
    assert one[1][0].train_loss == other[1][0].train_loss
    assert not torch.equal(run(hw.Moon(mu=MU), rounds=2)[0].state.params, run(None, rounds=2)[0].state.params)


def test_a_client_whose_update_was_not_counted_keeps_its_older_model():
    made, _ = run(hw.Moon(mu=MU), rounds=2)
    kept = made.memory.get("client-0")["trainer"]["previous"].clone()
    memory = {"trainer": {"previous": kept + 1}}
    made.memory.propose("client-0", (7, 0), memory)
    made.memory.settle((7, 0), ["client-2"])
    assert torch.equal(made.memory.get("client-0")["trainer"]["previous"], kept)


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_run_has_the_same_models_before_and_after(stop, tmp_path):
    def start(folder, **options):
        algorithm = hw.recipes.recipe("moon+ecgr", trainer=TRAINER, mu=MU, sampler=hw.Uniform(count=2))
        return hw.Run(algorithm, DATA, TASK, rounds=5, seed=SEED, folder=folder, evaluate_every=9, **options)

    def kept(run):
        return {client: run.memory.get(client)["trainer"]["previous"] for client in sorted(run.memory.clients())}

    whole, before = start(tmp_path / "whole"), {}
    for report in whole:
        if report.round == stop:
            before = {client: model.clone() for client, model in kept(whole).items()}
    cut = start(tmp_path / "cut")
    for report in cut:
        if report.round == stop:
            break
    cut.close()
    resumed = start(tmp_path / "cut", resume=True)
    assert before.keys() == kept(resumed).keys()
    assert all(torch.equal(before[client], model) for client, model in kept(resumed).items())
    list(resumed)
    assert torch.equal(resumed.state.params, whole.state.params)
    assert all(torch.equal(kept(whole)[client], model) for client, model in kept(resumed).items())


class TestContrast:
    z = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)

    def test_equal_models_give_log_two_and_no_gradient(self):
        z = self.z.clone().requires_grad_(True)
        value = contrast(z, self.z + 1, self.z + 1, 0.5)
        assert float(value.detach()) == pytest.approx(math.log(2), rel=1e-15)
        assert float(torch.autograd.grad(value, z)[0].abs().max()) < 1e-16

    def test_known_values(self):
        along, back = 3 * self.z, -self.z
        assert float(contrast(self.z, along, back, 1.0)) == pytest.approx(math.log(1 + math.exp(-2)))
        assert float(contrast(self.z, back, along, 0.01)) == pytest.approx(200.0)

    def test_a_small_temperature_overflows_nowhere(self):
        z = self.z.clone().requires_grad_(True)
        value = contrast(z, -self.z, self.z, 1e-6)
        assert float(value.detach()) == pytest.approx(2e6)
        assert bool(torch.autograd.grad(value, z)[0].isfinite().all())

    @pytest.mark.parametrize("which", [0, 1, 2])
    def test_a_representation_of_zero_does_no_harm(self, which):
        three = [
            torch.ones(2, 3, dtype=torch.float64),
            -torch.ones(2, 3, dtype=torch.float64),
            torch.eye(3).double()[:2],
        ]
        three[which] = torch.cat([torch.zeros(1, 3).double(), three[which][1:]])
        z = three[0].requires_grad_(True)
        value = contrast(z, three[1], three[2], 0.5)
        gradient = torch.autograd.grad(value, z)[0]
        rows = [contrast(z[i : i + 1], three[1][i : i + 1], three[2][i : i + 1], 0.5) for i in range(2)]
        assert float(value.detach()) == pytest.approx(float(sum(rows).detach()) / 2)
        cosines = [(0.0, 0.0), (0.0, 3**-0.5), (-1.0, 0.0)][which]  # with the global and the previous model's
        expected = math.log(1 + math.exp((cosines[1] - cosines[0]) / 0.5))
        assert float(rows[0].detach()) == pytest.approx(expected)
        assert float(gradient.abs().max()) < 10
        assert which != 0 or not gradient[0].any()


class TestFixedModels:
    """The fixed models are in evaluation mode and untouched by training."""

    @staticmethod
    def restless():
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, 3))

    def test_the_twin_is_a_copy_in_evaluation_mode(self):
        flat_module = FlatModule(hw.Task(model=self.restless, buffers="average"), Key.root(0))
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
        twin = flat_module.frozen_copy()
        before = twin(inputs)
        flat_module.module.train()
        flat_module.module(inputs)
        flat_module.shared.add_(1.0)
        assert torch.equal(twin(inputs), before)
        assert not torch.equal(flat_module.frozen_copy()(inputs), before)
        assert flat_module.module.training
        assert not any(part.training for part in twin.modules())

    @pytest.mark.parametrize("buffers", ["local", "average"])
    def test_a_model_with_statistics_trains_and_remembers_its_own(self, buffers):
        task = hw.Task(model=self.restless, buffers=buffers)
        trainer = hw.LocalSGD(lr=0.05, batch_size=None, epochs=2)
        data = blobs(sizes=(8, 8, 8))
        made = hw.Run(hw.recipes.moon(trainer=trainer), data, task, rounds=3)
        list(made)
        kept = made.memory.get("client-0")["trainer"]
        assert ("previous statistics" in kept) == (buffers == "average")
        assert ("statistics" in kept) == (buffers == "local")
        plain = hw.Run(hw.recipes.fedavg(trainer=trainer), data, task, rounds=3)
        list(plain)
        assert not torch.equal(made.state.params, plain.state.params)

    def test_the_previous_model_sees_with_its_own_statistics(self):
        def third_round(shift):
            task = hw.Task(model=self.restless, buffers="average")
            trainer = hw.LocalSGD(lr=0.05, batch_size=None)
            made = hw.Run(hw.recipes.moon(mu=5.0, trainer=trainer), blobs(sizes=(8, 8)), task, rounds=3)
            for report in made:
                if report.round == 2:
                    kept = dict(made.memory.get("client-0")["trainer"])
                    kept["previous statistics"] = kept["previous statistics"] + shift
                    made.memory.propose("client-0", (9, 0), {"trainer": kept})
                    made.memory.settle((9, 0), ["client-0"])
            return made.state.params

        assert torch.equal(third_round(0.0), third_round(0.0))
        assert not torch.equal(third_round(0.0), third_round(1.0))

    def test_personal_parameters_are_those_of_the_client(self):
        task = hw.Task(model=Net, shared=("body.*", "head.*"))
        made = hw.Run(hw.recipes.moon(trainer=TRAINER), DATA, task, rounds=3)
        list(made)
        kept = made.memory.get("client-0")["trainer"]
        assert kept["previous"].numel() == made.flat_module.layout.size
        assert kept.keys() == {"previous", "personal"}


class Unused(nn.Module):
    """A submodule that is not called, and one that returns two things."""

    def __init__(self):
        super().__init__()
        self.used, self.idle, self.memory = nn.Linear(4, 3), nn.Linear(4, 3), nn.LSTM(3, 3)

    def forward(self, x):
        return self.memory(self.used(x).unsqueeze(0))[0][0]


class TestRefusals:
    @pytest.mark.parametrize(
        ("model", "representation", "sentence"),
        [
            (Net, "heads", r"no submodule 'heads' \(did you mean 'head'\?\); it has body, body.0, body.1, head, out"),
            (Net, "", r"no submodule ''"),
            (lambda: nn.Sequential(nn.Conv1d(4, 3, 1)), None, "no linear layer whose input.*one of 0"),
        ],
    )
    def test_a_model_without_the_representation_is_refused_before_any_training(self, model, representation, sentence):
        algorithm = hw.recipes.moon(representation=representation)
        with pytest.raises(hw.ConfigError, match=sentence):
            hw.Run(algorithm, DATA, hw.Task(model=model), rounds=1)

    @pytest.mark.parametrize(("representation", "sentence"), [("idle", "was not called"), ("memory", "something else")])
    def test_a_submodule_that_gives_no_representation_is_refused(self, representation, sentence):
        with pytest.raises(hw.ConfigError, match=f"{representation!r} must give one representation.*{sentence}"):
            run(hw.Moon(representation=representation), task=hw.Task(model=Unused))

    @pytest.mark.parametrize("numbers", [{"mu": -1.0}, {"mu": math.nan}, {"temperature": 0.0}, {"mu": "a"}], ids=repr)
    def test_numbers_out_of_range(self, numbers):
        with pytest.raises(hw.ConfigError, match=f"Moon.{next(iter(numbers))} must be"):
            hw.Moon(**numbers)

    def test_an_engine_without_memory(self):
        with pytest.raises(hw.ChainRefused) as refusal:
            hw.recipes.moon().flows(EngineFacts("stateless", memory=False), 3)
        assert refusal.value.caused_by == "stateless"
        assert "Moon" in refusal.value.needed
        hw.recipes.moon(mu=1.0).flows(EngineFacts("any"), 3)

    def test_a_recipe_whose_trainer_has_a_term_already(self):
        with pytest.raises(hw.ConfigError, match="adds its own term to the loss of LocalSGD, and found Moon"):
            hw.recipes.moon(trainer=hw.LocalSGD(loss_term=hw.Moon()))


class TestRunFiles:
    text = '[run]\nrounds = 2\n[data]\nsource = "hospitals"\n[model]\nname = "mlp"\nprojection = 8\n[algorithm]\n'

    def load(self, tmp_path, algorithm, *sets):
        path = tmp_path / "file.toml"
        path.write_text(self.text + algorithm)
        return load_runfile(str(path), sets)

    def test_a_recipe_adds_the_term_to_the_files_trainer(self, tmp_path):
        algorithm = self.load(tmp_path, 'recipe = "moon+ecgr"\nmu = 3.0\ntrainer = { lr = 0.02 }\n').algorithm
        assert algorithm.trainer == hw.LocalSGD(lr=0.02, loss_term=hw.Moon(mu=3.0))
        assert algorithm.chain.labels == ("ECGR", "Mean", "ServerSGD")

    def test_the_term_can_be_written_out(self, tmp_path):
        written = 'recipe = "scaffold"\n[algorithm.trainer.loss_term]\nterm = "Moon"\nrepresentation = "1"\n'
        runfile = self.load(tmp_path, written, "algorithm.trainer.loss_term.mu=4")
        assert runfile.algorithm.trainer.loss_term == hw.Moon(mu=4.0, representation="1")
        path = tmp_path / "resolved.toml"
        path.write_text(runfile.to_toml())
        again = load_runfile(str(path))
        assert again.algorithm == runfile.algorithm
        assert again.resolved() == runfile.resolved()

    @pytest.mark.parametrize(
        ("term", "sentence"),
        [
            ('{ term = "Mon" }', r"no term named 'Mon' \(did you mean 'Moon'\?\)"),
            ('{ term = "Moon", muu = 1 }', r"Moon has no option 'muu' \(did you mean 'mu'\?\)"),
            ("{ mu = 1 }", "a term needs its name"),
            ("3", "loss_term must be a table"),
        ],
    )
    def test_a_wrong_term_is_refused_with_a_sentence(self, tmp_path, term, sentence):
        with pytest.raises(hw.ConfigError, match=sentence):
            self.load(tmp_path, f"trainer = {{ loss_term = {term} }}\n")

    def test_it_trains(self, tmp_path):
        experiment = self.load(tmp_path, 'recipe = "moon"\n').start()
        names = [name for name, _ in experiment.model().named_modules()]
        reports = list(experiment)
        assert "5" in names
        assert reports[-1].train_loss < reports[0].train_loss


def test_is_explained():
    said = str(hw.recipes.recipe("moon", mu=2.0).explain())
    assert "added to the task's loss in each local step: Moon(mu=2.0, temperature=0.5, representation=None)" in said


def test_the_models_projection_head_is_what_the_paper_has():
    for name, shape in (("lenet", (1, 28, 28)), ("cnn", (1, 28, 28)), ("mlp", (5,))):
        plain = hw.models.factory(name, shape, 10)()
        headed = hw.models.factory(name, shape, 10, {"projection": 256})()
        features = plain[-1].in_features
        assert [type(layer).__name__ for layer in headed[len(plain) - 1 :]] == ["Linear", "ReLU", "Linear", "Linear"]
        assert [headed[i].out_features for i in (-4, -2, -1)] == [features, 256, 10]
        assert headed(torch.zeros(2, *shape)).shape == (2, 10)
    with pytest.raises(hw.ConfigError, match="projection must be at least 1"):
        hw.models.factory("mlp", (5,), 10, {"projection": 0})()


def test_a_term_of_ones_own():
    """The smallest one: the size of the outputs."""
    from collections.abc import Callable
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Small(hw.LossTerm):
        weight: float = 1.0

        def check(self, flat_module) -> None:
            pass

        def begin(self, work) -> Callable:
            def forward(inputs):
                outputs = work.flat_module.module(inputs)
                return outputs, self.weight * outputs.square().mean()

            return forward

    made, _ = run(Small(1.0))
    plain, _ = run(None)
    assert not made.algorithm.trainer.facts.memory
    assert float(made.state.params[-3:].norm()) < float(plain.state.params[-3:].norm())
    assert copy.deepcopy(made.algorithm.trainer) == made.algorithm.trainer
