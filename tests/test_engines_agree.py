"""One task, one chain, one seed: every engine ends with the same numbers.

Each loss and metric of the registry, and each kind of model, trains one client at a time, side by side, in low-rank
form, in worker processes and by a clock.  Numbers of labels and sides of masks are those of batches and of the
examples that engines probe, where a loss with an axis too many would fit by accident.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from conformance.teststages import OnlyTheSum
from torch import nn
from torch.nn import functional as F

import headway as hw
from headway.engines.wire_engine import WireEngine
from headway.model.losses import LOSSES
from headway.model.metrics import METRICS
from headway.protocol import sums as total
from headway.server import collector as intake

SIZES = (8, 12, 4, 16, 8, 7, 20, 8)
BATCH = 4
TRAINER = hw.LocalSGD(lr=0.1, batch_size=BATCH, epochs=2)
ENGINES = {
    "lanes of 2": lambda: hw.LocalEngine(lanes=2),
    "lanes of 8": lambda: hw.LocalEngine(lanes=8),
    "low rank": lambda: hw.LocalEngine(lanes=4, low_rank=True, drift=False),
    "processes": lambda: hw.ProcessEngine(2, lanes=4),
    "clock": lambda: hw.ClockEngine(hw.LocalEngine(lanes=3), hw.DeviceFleet()),
    "wire": WireEngine,
}


def federation(inputs, targets, sizes=SIZES, classes=None):
    """Clients of these sizes, each with as many examples to train on as to test."""
    parts = torch.arange(2 * sum(sizes)).split([size for size in sizes for _ in range(2)])
    train = {f"c{place}": part for place, part in enumerate(parts[::2])}
    test = {f"c{place}": part for place, part in enumerate(parts[1::2])}
    return hw.FederatedData("made", hw.Examples(inputs, targets), train, test, classes=classes)


def rows(kind, width=0, sizes=SIZES):
    """Rows of six numbers, with targets that follow from them."""
    generator = torch.Generator().manual_seed(1)
    count = 2 * sum(sizes)
    x = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    values = x @ torch.randn(6, max(width, 1), generator=generator, dtype=torch.float64)
    targets = {
        "classes": values.argmax(1),
        "probabilities": values.softmax(1),
        "binary": (values[:, 0] > 0).double(),
        "labels": (values > 0).double(),
        "values": values,
        "value": values[:, 0],
    }[kind]
    return federation(x, targets, sizes, classes=width if kind == "classes" else None)


def pictures(classes, side, binary=False):
    """One-channel pictures with a mask of the classes, or of zeros and ones."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.randint(classes, (2 * sum(SIZES), side, side), generator=generator)
    noise = torch.randn(len(mask), 1, side, side, generator=generator, dtype=torch.float64)
    inputs = mask.unsqueeze(1) / classes + 0.1 * noise
    return federation(inputs, mask.double() if binary else mask, classes=None if binary else classes)


def tokens():
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(1, 9, (2 * sum(SIZES), 5), generator=generator)
    return federation(text, (text[:, -1] > 4).long(), classes=2)


def mlp(outputs):
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, outputs))


def fcn(outputs):
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, outputs, 1))


def norm(**options):
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, **options), nn.Tanh(), nn.Linear(5, 3))


def frozen():
    module = mlp(3)
    module[0].requires_grad_(False)
    return module


def tied():
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(6, 3))


class Words(nn.Module):
    """Tokens read by an LSTM or a GRU; what it gives is a tensor, a tuple or a dict."""

    def __init__(self, kind, gives="tensor"):
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(9, 3), kind(3, 4, batch_first=True), nn.Linear(4, 2)
        self.gives = gives

    def forward(self, text):
        hidden, state = self.rnn(self.embed(text))
        logits = self.head(hidden[:, -1])
        return {"tensor": logits, "tuple": (state, logits), "dict": {"hidden": hidden, "logits": logits}}[self.gives]


class Gives(nn.Module):
    """A dict or a tuple in the place of a tensor."""

    def __init__(self, kind):
        super().__init__()
        self.inner, self.kind = mlp(3), kind

    def forward(self, x):
        logits = self.inner(x)
        return {"logits": logits, "first": x} if self.kind is dict else (x, logits)


def each_label(outputs, targets):
    """A loss of one's own with an axis of labels: `[B, L]`."""
    return F.softplus(-(2 * targets - 1) * outputs)


@dataclass
class Case:
    data: Any
    model: Any
    loss: Any = "cross_entropy"
    metrics: tuple = ("accuracy",)
    task: dict = field(default_factory=dict)
    recipe: str = "fedavg"
    options: dict = field(default_factory=dict)
    trainer: hw.LocalSGD = TRAINER
    close: float = 1e-9


def binary(width, metrics=(), **options):
    return Case(rows("labels", width), lambda: mlp(width), "binary_cross_entropy", metrics, **options)


ALL_OF_CLASSES = ("accuracy", "balanced_accuracy", "intersection_over_union", "pooled_accuracy")
ALL_OF_LABELS = ("auroc", "balanced_accuracy", "accuracy", "intersection_over_union", "pooled_auroc")
CASES = {
    "classes": Case(rows("classes", 3), lambda: mlp(3), metrics=ALL_OF_CLASSES),
    "two classes": Case(rows("classes", 2), lambda: mlp(2), metrics=("auroc", "pooled_auroc")),
    "class probabilities": Case(rows("probabilities", 3), lambda: mlp(3), metrics=ALL_OF_CLASSES),
    "binary": Case(rows("binary", 1), lambda: mlp(1), "binary_cross_entropy", ALL_OF_LABELS),
    "as many labels as are probed": binary(8, ALL_OF_LABELS),
    "as many labels as a batch": binary(BATCH, ALL_OF_LABELS),
    "five labels": binary(5),
    "one label": binary(1),
    "labels by q-FedAvg": binary(8, recipe="qfedavg"),
    "labels by AFL": binary(BATCH, recipe="afl"),
    "labels by SCAFFOLD": binary(8, recipe="scaffold"),
    "labels and a loss of one's own": Case(rows("labels", 8), lambda: mlp(8), each_label, ("auroc",)),
    "a value": Case(rows("value", 1), lambda: mlp(1), "mean_squared_error", ("mean_absolute_error",)),
    "three values": Case(rows("values", 3), lambda: mlp(3), "mean_squared_error", ("pooled_mean_absolute_error",)),
    "masks of 3 classes": Case(pictures(3, 4), lambda: fcn(3), metrics=ALL_OF_CLASSES),
    "masks of 8 classes, 8 x 8": Case(pictures(8, 8), lambda: fcn(8), metrics=ALL_OF_CLASSES),
    "masks of zeros and ones": Case(pictures(2, BATCH, True), lambda: fcn(1), "binary_cross_entropy", ALL_OF_LABELS),
    "LSTM": Case(tokens(), lambda: Words(nn.LSTM)),
    "GRU, a tuple": Case(tokens(), lambda: Words(nn.GRU, "tuple"), task={"output": 1}),
    "a dict": Case(rows("classes", 3), lambda: Gives(dict), task={"output": "logits"}),
    "a tuple": Case(rows("classes", 3), lambda: Gives(tuple), task={"output": 1}),
    "BatchNorm averaged": Case(rows("classes", 3, (8, 12, 4, 16)), norm, task={"buffers": "average"}),
    "BatchNorm kept": Case(rows("classes", 3, (8, 12, 4, 16)), norm, task={"buffers": "local"}),
    "BatchNorm of each batch": Case(rows("classes", 3, (8, 12, 4, 16)), lambda: norm(track_running_stats=False)),
    "dropout": Case(rows("classes", 3), lambda: nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.4), nn.Linear(5, 3))),
    "tied": Case(rows("classes", 3), tied),
    "frozen": Case(rows("classes", 3), frozen),
    "a part kept": Case(rows("classes", 3), lambda: mlp(3), task={"shared": ("0.*",)}),
}


def run(case, engine, rounds=2, chain=None):
    algorithm = hw.recipes.recipe(case.recipe, trainer=case.trainer, **case.options)
    if chain is not None:
        algorithm = hw.Algorithm(chain, case.trainer, hw.All())
    task = hw.Task(case.model, loss=case.loss, metrics=case.metrics, dtype="float64", **case.task)
    made = hw.Run(algorithm, case.data, task, rounds=rounds, engine=engine, seed=3)
    try:
        return made, list(made)
    finally:
        made.close()


def agree(one, other, close, scored=True):
    """Asserts the same numbers; by wire also the same bits of the model, but no metrics of all clients' examples."""
    (a, reports), (b, others) = one, other
    wire = isinstance(b.engine, WireEngine)
    close, left_out = (0.0, set(a.task.pooled_scorers)) if wire else (close, set())
    torch.testing.assert_close(b.state.params, a.state.params, rtol=close, atol=close)
    if a.state.buffers is not None:
        torch.testing.assert_close(b.state.buffers, a.state.buffers, rtol=close, atol=close)
    for mine, theirs in zip(reports, others, strict=True):
        assert theirs.train_loss == pytest.approx(mine.train_loss, rel=1e-7)
        if not scored:
            continue
        metrics = {metric: value for metric, value in mine.metrics.items() if metric not in left_out}
        assert theirs.metrics == pytest.approx(metrics, rel=1e-6, nan_ok=True)
        assert set(mine.metrics) == {*a.task.metric_names, "loss"}
        assert theirs.evaluation.keys() == mine.evaluation.keys()
        for client, figures in mine.evaluation.items():
            assert theirs.evaluation[client] == pytest.approx(figures, rel=1e-6, nan_ok=True)
        for my_client, their_client in zip(mine.clients, theirs.clients, strict=True):
            assert their_client.metrics["train_loss"] == pytest.approx(my_client.metrics["train_loss"], rel=1e-7)


@pytest.fixture(scope="module")
def alone():
    """Each case one client at a time, the reference; made once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = run(CASES[name], hw.LocalEngine())
        return made[name]

    return get


def each_engine():
    """Each case on each engine; by a clock, whose clients train side by side, a few, and the rest in soaks."""
    by_clock = {"classes", "labels by q-FedAvg", "LSTM", "BatchNorm averaged", "BatchNorm kept", "a part kept"}
    for name, engine in itertools.product(CASES, ENGINES):
        elsewhere = engine == "clock" and name not in by_clock
        yield pytest.param(name, engine, marks=[pytest.mark.soak] * elsewhere, id=f"{name}-{engine}")


@pytest.mark.parametrize(("name", "engine"), list(each_engine()))
def test_the_numbers_are_those_of_one_client_at_a_time(alone, name, engine):
    scored = name != "BatchNorm of each batch" or engine != "wire"  # whose scores depend on who is scored together
    agree(alone(name), run(CASES[name], ENGINES[engine]()), CASES[name].close, scored)


def test_every_loss_and_metric_of_the_registry_is_among_the_cases():
    assert {case.loss for case in CASES.values() if isinstance(case.loss, str)} == set(LOSSES)
    named = itertools.chain.from_iterable(case.metrics for case in CASES.values())
    assert {str(metric).removeprefix("pooled_") for metric in named} == set(METRICS)


@pytest.mark.parametrize("name", ["as many labels as are probed", "as many labels as a batch", "classes", "a dict"])
def test_these_are_really_side_by_side(name):
    for kind in ("lanes of 8", "low rank"):
        engine = ENGINES[kind]()
        _, reports = run(CASES[name], engine)
        assert engine.sequential_reason is None
        assert not [note for report in reports for note in report.notes]
        assert (engine.execution.low_rank.reason is None) == (kind == "low rank")


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("as many labels as are probed", F.binary_cross_entropy_with_logits),
        ("masks of 8 classes, 8 x 8", F.cross_entropy),
    ],
)
def test_the_loss_is_the_mean_over_labels_or_pixels(alone, name, loss):
    made, reports = alone(name)
    outputs = made.model()(made.data.test_of("c0").inputs).detach()
    assert reports[-1].evaluation["c0"]["loss"] == pytest.approx(float(loss(outputs, made.data.test_of("c0").targets)))


@pytest.mark.parametrize("recipe", ["qfedavg", "afl"])
def test_q_fedavg_and_afl_read_that_loss(recipe):
    """Labels and outputs that are there twice change no loss, and so nothing that is weighed by it."""
    data = rows("labels", BATCH)
    doubled = federation(data.store.inputs, data.store.targets.repeat(1, 2))
    options = {"loss": "binary_cross_entropy", "metrics": (), "recipe": recipe}
    once = run(Case(data, lambda: mlp(BATCH), **options), hw.LocalEngine(lanes=2))
    twice = run(Case(doubled, lambda: nn.Sequential(*mlp(BATCH), Twice()), **options), hw.LocalEngine(lanes=2))
    torch.testing.assert_close(once[0].state.params, twice[0].state.params)


class Twice(nn.Module):
    def forward(self, x):
        return x.repeat(1, 2)


@dataclass(frozen=True)
class Permutes(hw.Stage):
    """A codec that is not elementwise: each number travels in another's place."""

    place: ClassVar[hw.Place] = hw.Place.QUANTISE

    def connect(self, flow):
        return flow.set(self, additive=False).keep(self, "bound", "dense")

    def send(self, update, memory, ctx):
        return update.with_delta(update.delta.flip(-1)), memory

    def decode(self, update, ctx):
        return update.with_delta(update.delta.flip(-1))


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "low rank"])
def test_a_codec_that_permutes_the_vector(alone, engine, monkeypatch):
    """Also where sums are made a few coordinates, and decoding a few clients, at a time."""
    for module, name in ((total, "COLUMNS"), (total, "LEAST"), (intake, "AT_A_TIME")):
        monkeypatch.setattr(module, name, 16)
    made = ENGINES[engine]()
    agree(alone("classes"), run(CASES["classes"], made, chain=hw.chain(Permutes(), hw.Mean())), 1e-9)
    if engine != "wire":
        assert getattr(made, "inner", made).sequential_reason is None


@pytest.mark.parametrize("sums", [True, False], ids=["a sum", "each update"])
@pytest.mark.parametrize("name", ["classes", "BatchNorm averaged"])
def test_integers_of_a_quantiser(name, sums):
    """Draws of rounding are those of each client, so that all engines add the same integers."""
    protected = (OnlyTheSum(),) if sums else ()
    sparse = (hw.RandomK(0.5),) if name == "classes" else ()
    links = hw.chain(*sparse, hw.Clip(0.5), hw.Quantize(12), *protected, hw.Mean("clients"))
    plain = run(CASES[name], hw.LocalEngine(), chain=links)
    for engine in ENGINES.values():
        made = engine()
        other = run(CASES[name], made, chain=links)
        torch.testing.assert_close(other[0].state.params, plain[0].state.params, rtol=0, atol=1e-9)
        if plain[0].state.buffers is not None:
            torch.testing.assert_close(other[0].state.buffers, plain[0].state.buffers, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("recipe", "options"), [("fedbuff", {"buffer": 2, "concurrency": 3}), ("fedasync", {"concurrency": 3})]
)
@pytest.mark.parametrize("buffers", ["average", "local"])
def test_late_updates_with_batchnorm(recipe, options, buffers):
    """Slow devices answer in later rounds."""
    data = rows("classes", 3, (8, 12, 4, 16))
    case = Case(data, norm, task={"buffers": buffers}, recipe=recipe, options=options)
    fleet = hw.DeviceFleet(examples_per_s=20.0, speed_spread=1.0)
    inner = {"alone": hw.LocalEngine(), "lanes": hw.LocalEngine(lanes=4), "processes": hw.ProcessEngine(2, lanes=2)}
    made = {name: run(case, hw.ClockEngine(engine, fleet), rounds=6) for name, engine in inner.items()}
    for name in ("lanes", "processes"):
        agree(made["alone"], made[name], 1e-9)
