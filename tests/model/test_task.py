"""Tasks: what is shared, what becomes of buffers, metrics against known values."""

import threading

import pytest
import torch
from torch import nn
from toys import blobs, linear_task

import headway as hw
from headway.model.flat_module import FlatModule
from headway.model.metrics import METRICS
from headway.model.task import floating_buffers
from headway.numerics.keys import Key

KEY = Key.root(0)
TRAINER = hw.LocalSGD(lr=0.1, batch_size=8)  # BatchNorm cannot train on a last batch of one


def reference():
    """What the figures are compared with; slow to import."""
    from sklearn import metrics

    return metrics


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def run(task, rounds=3, recipe="fedavg", data=None):
    made = hw.Run(hw.recipes.recipe(recipe, trainer=TRAINER), data or blobs(), task, rounds=rounds)
    return made, list(made)


def test_the_initial_model_is_a_function_of_the_key():
    one, two = FlatModule(linear_task(), KEY).shared, FlatModule(linear_task(), KEY).shared
    assert torch.equal(one, two)
    assert not torch.equal(one, FlatModule(linear_task(), Key.root(1)).shared)


def test_the_initial_model_does_not_depend_on_what_other_threads_build():
    alone, inside, done = FlatModule(linear_task(), KEY).shared, threading.Event(), threading.Event()

    def other():
        inside.set()
        done.wait(5)
        return nn.Linear(4, 3)

    def first():
        thread.start()
        inside.wait(0.2)  # in vain: the other one waits for its turn
        return linear_task().model()

    thread = threading.Thread(target=lambda: FlatModule(hw.Task(model=other), Key.root(1)))
    beside = FlatModule(hw.Task(model=first), KEY).shared
    done.set()
    thread.join()
    assert torch.equal(beside, alone)


def test_the_module_lives_in_the_vector():
    flat_module = FlatModule(linear_task(), KEY)
    flat_module.load(torch.arange(15.0), None, None)
    assert torch.equal(flat_module.module.weight.detach(), torch.arange(12.0).view(3, 4))
    assert torch.equal(flat_module.module.bias.detach(), torch.arange(12.0, 15.0))


class TestBuffers:
    def test_a_model_with_statistics_must_choose(self):
        with pytest.raises(hw.ConfigError, match=r'BatchNorm1d.*buffers = "local"'):
            FlatModule(hw.Task(model=normed), KEY)

    def test_average_is_the_weighted_mean_of_what_clients_saw(self):
        task = hw.Task(model=normed, buffers="average")
        made, _ = run(task, rounds=1)
        data, expected, total = blobs(), 0, 0
        for client in data.clients:
            single = hw.FederatedData.from_clients(
                {client: (data.train_of(client).inputs, data.train_of(client).targets)}
            )
            alone, _ = run(task, rounds=1, data=single)
            expected = expected + alone.state.buffers * len(data.train[client])
            total += len(data.train[client])
        torch.testing.assert_close(made.state.buffers, expected / total)
        assert made.model()[1].running_mean.abs().sum() > 0

    def test_integer_buffers_are_never_averaged(self):
        assert set(floating_buffers(normed())) == {"1.running_mean", "1.running_var"}

    def test_local_ones_stay_and_differ(self):
        made, reports = run(hw.Task(model=normed, buffers="local"))
        kept = [made.memory.get(client)["trainer"]["statistics"] for client in blobs().clients]
        assert not torch.equal(kept[0], kept[1])
        assert made.state.buffers is None
        assert "accuracy" in reports[-1].metrics

    def test_local_ones_refuse_central_evaluation(self):
        data = blobs()
        central = hw.FederatedData(
            data.name, data.store, data.train, data.test, hw.Examples(data.store.inputs, data.store.targets), 3
        )
        with pytest.raises(hw.ConfigError, match="cannot be evaluated centrally"):
            hw.Run(hw.recipes.fedavg(trainer=TRAINER), central, hw.Task(model=normed, buffers="local"), rounds=1)


def test_parameters_that_are_not_shared_stay_with_the_client():
    task = hw.Task(model=lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), shared=("0.*",))
    made, reports = run(task)
    assert made.flat_module.layout.names == ("0.weight", "0.bias")
    heads = [made.memory.get(client)["trainer"]["personal"] for client in blobs().clients]
    assert not torch.equal(heads[0], heads[1])
    assert reports[0].bytes_up == 3 * reports[0].clients[0].bytes_up
    assert reports[0].clients[0].bytes_up < 25 * 4 + 120


def test_frozen_parameters_are_not_sent():
    def half_frozen():
        module = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
        module[0].requires_grad_(False)
        return module

    assert FlatModule(hw.Task(model=half_frozen), KEY).layout.names == ("1.weight", "1.bias")


def test_nothing_to_share_is_refused():
    with pytest.raises(hw.ConfigError, match="nothing to learn together"):
        FlatModule(linear_task(shared=("body.*",)), KEY)


@pytest.mark.parametrize("options", [{"loss": "cross_entrophy"}, {"metrics": ("acuracy",)}])
def test_unknown_names_say_the_nearest(options):
    with pytest.raises(hw.ConfigError, match=r"did you mean '(cross_entropy|accuracy)'"):
        hw.Task(model=nn.Identity, **options)


class TestMetrics:
    logits = torch.tensor([[2.0, 1.0], [0.5, 0.7], [0.1, 0.9], [1.0, 0.0], [0.3, 0.3]])
    targets = torch.tensor([0, 1, 0, 0, 1])

    def test_equal_scikit_learn(self):
        predicted, score = self.logits.argmax(1), self.logits[:, 1] - self.logits[:, 0]
        assert METRICS["accuracy"](self.logits, self.targets) == reference().accuracy_score(self.targets, predicted)
        assert METRICS["balanced_accuracy"](self.logits, self.targets) == pytest.approx(
            reference().balanced_accuracy_score(self.targets, predicted)
        )
        assert METRICS["auroc"](self.logits, self.targets) == pytest.approx(
            reference().roc_auc_score(self.targets, score)
        )

    def test_auroc_with_ties_equals_scikit_learn(self):
        generator = torch.Generator().manual_seed(1)
        score = torch.randint(0, 5, (200,), generator=generator).float()
        targets = torch.randint(0, 2, (200,), generator=generator)
        assert METRICS["auroc"](score, targets) == pytest.approx(reference().roc_auc_score(targets, score))

    def test_auroc_of_one_class_is_not_a_number(self):
        assert METRICS["auroc"](self.logits, torch.ones(5, dtype=torch.int64)) != METRICS["auroc"](
            self.logits, torch.ones(5, dtype=torch.int64)
        )

    def test_binary_and_regression_tasks_train(self):
        data = blobs(classes=2)
        binary = hw.Task(lambda: nn.Linear(4, 1), loss="binary_cross_entropy", metrics=("accuracy", "auroc"))
        assert list(hw.rounds(hw.recipes.fedavg(trainer=TRAINER), data, binary, rounds=5))[-1].metrics["accuracy"] > 0.6
        real = hw.FederatedData.from_clients(
            {c: (data.train_of(c).inputs, data.train_of(c).inputs[:, 0]) for c in data.clients}
        )
        squared = hw.Task(lambda: nn.Linear(4, 1), loss="mean_squared_error", metrics=("mean_absolute_error",))
        reports = list(hw.rounds(hw.recipes.fedavg(trainer=hw.LocalSGD(lr=0.01)), real, squared, rounds=30))
        assert reports[-1].train_loss < reports[0].train_loss / 2


def test_a_factory_may_give_one_module_again_and_again():
    kept = nn.Linear(4, 3)
    before = kept.weight.detach().clone()
    made, _ = run(hw.Task(model=lambda: kept))
    start = torch.cat([before.reshape(-1), kept.bias.detach()])
    assert torch.equal(FlatModule(hw.Task(model=lambda: kept), KEY).shared, start)
    assert not torch.equal(made.state.params, start)
    assert torch.equal(kept.weight.detach(), before)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model": nn.Linear(4, 3)}, "must be a factory"),
        ({"metrics": "accuracy"}, r"Task.metrics must be a tuple of texts, such as \('accuracy',\)"),
        ({"shared": "0.*"}, "Task.shared must be a tuple of texts"),
        ({"metrics": (lambda o, t: 0.0, lambda o, t: 1.0)}, "two metrics are named '<lambda>'"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, sentence):
    with pytest.raises(hw.ConfigError, match=sentence):
        hw.Task(**{"model": lambda: nn.Linear(4, 3), **options})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model": lambda: 3}, "must make a torch.nn.Module"),
        ({"shared": ("weight", "biass")}, "no parameter is like 'biass' .did you mean 'bias'"),
        ({"loss": nn.functional.cross_entropy}, r"one loss per example, of shape \[7\], found \[\]"),
    ],
)
def test_what_cannot_work_is_refused_by_the_run(options, sentence):
    with pytest.raises(hw.ConfigError, match=sentence):
        run(hw.Task(**{"model": lambda: nn.Linear(4, 3), **options}))


def test_a_run_converts_the_data_to_the_number_type_of_the_task():
    made, reports = run(linear_task(dtype="float64"))
    assert made.state.params.dtype == made.data.store.inputs.dtype == torch.float64
    assert made.data.store.targets.dtype == torch.int64
    narrow = run(linear_task())[0].state.params
    torch.testing.assert_close(made.state.params.float(), narrow, rtol=1e-4, atol=1e-5)
    assert "accuracy" in reports[-1].metrics


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"rounds": 2.5}, "rounds must be a whole number"), ({"seed": "a"}, "seed must be a whole"), ({"seed": -1}, "0")],
)
def test_a_run_refuses_counts_that_are_none(options, sentence):
    with pytest.raises(hw.ConfigError, match=sentence):
        hw.Run(hw.recipes.fedavg(trainer=TRAINER), blobs(), linear_task(), **{"rounds": 1, **options})


def test_counts_of_batches_do_not_pass_from_client_to_client():
    """BatchNorm with momentum=None weighs a batch by how many it has counted: each client's count is its own."""

    def model():
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, momentum=None), nn.Linear(6, 3))

    flat_module = FlatModule(hw.Task(model, buffers="local"), KEY)
    counted = []
    for _ in ("one client", "the next"):
        flat_module.load(flat_module.shared.clone(), None, None)
        flat_module.module.train()
        flat_module.module(torch.randn(8, 4))
        counted.append(int(flat_module.module[1].num_batches_tracked))
    assert counted == [1, 1]
