"""Metrics where the class is not on the last axis, of several labels, and over all clients' examples together."""

import numpy as np
import pytest
import torch
from mk import toml
from torch import nn

import headway as hw
from headway.model.metrics import METRICS, class_axes

GENERATOR = torch.Generator().manual_seed(0)


def reference():
    """What the figures are compared with; slow to import."""
    from sklearn import metrics

    return metrics


@pytest.fixture(autouse=True)
def _repeatable():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def masks(classes, count=6, side=4):
    outputs = torch.randn(count, classes, side, side, generator=GENERATOR)
    return outputs, torch.randint(classes, (count, side, side), generator=GENERATOR)


@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_masks_have_their_classes_on_axis_one(classes):
    """Also where the picture is as wide as there are classes."""
    outputs, targets = masks(classes)
    predicted, truth = outputs.argmax(1).flatten(), targets.flatten()
    assert METRICS["accuracy"](outputs, targets) == pytest.approx(reference().accuracy_score(truth, predicted))
    balanced = reference().balanced_accuracy_score(truth, predicted)
    assert METRICS["balanced_accuracy"](outputs, targets) == pytest.approx(balanced)
    overlap = reference().jaccard_score(truth, predicted, average="macro")
    assert METRICS["intersection_over_union"](outputs, targets) == pytest.approx(overlap)


def test_classes_on_the_last_axis_are_found_where_only_that_fits():
    outputs, targets = torch.randn(5, 9, 3), torch.randint(3, (5, 9))
    assert METRICS["accuracy"](outputs, targets) == float((outputs.argmax(2) == targets).double().mean())
    assert class_axes(torch.zeros(5, 9, 9), targets) == [1, 2]


def test_a_loss_of_ones_own_does_not_tell_the_axis_where_both_fit():
    data = hw.FederatedData.from_clients({"a": (torch.randn(8, 3), torch.randint(3, (8, 3)))})
    task = hw.Task(
        lambda: nn.Sequential(nn.Linear(3, 9), nn.Unflatten(1, (3, 3))),
        loss=lambda o, t: nn.functional.cross_entropy(o.movedim(2, 1), t, reduction="none"),
    )
    with pytest.raises(hw.ConfigError, match="do not determine on which axis the classes are"):
        hw.Run(hw.recipes.fedavg(), data, task, rounds=1)


@pytest.mark.parametrize("kind", [torch.int64, torch.float32])
def test_a_figure_of_several_labels_is_the_mean_over_the_labels(kind):
    outputs = torch.randn(40, 5, generator=GENERATOR)
    targets = (torch.randn(40, 5, generator=GENERATOR) > 1).to(kind)
    predicted = (outputs > 0).long()
    assert METRICS["auroc"](outputs, targets) == pytest.approx(reference().roc_auc_score(targets, outputs))
    each = [reference().balanced_accuracy_score(targets[:, label].long(), predicted[:, label]) for label in range(5)]
    assert METRICS["balanced_accuracy"](outputs, targets) == pytest.approx(np.mean(each))
    overlap = reference().jaccard_score(targets.long(), predicted, average="macro")
    assert METRICS["intersection_over_union"](outputs, targets) == pytest.approx(overlap)
    assert METRICS["accuracy"](outputs, targets) == pytest.approx(float((predicted == targets).double().mean()))


def test_a_label_of_one_value_is_left_out_of_the_mean():
    outputs, targets = torch.randn(20, 3), (torch.arange(60).view(20, 3) % 7 > 3).long()
    targets[:, 1] = 0
    known = [reference().roc_auc_score(targets[:, label], outputs[:, label]) for label in (0, 2)]
    assert METRICS["auroc"](outputs, targets) == pytest.approx(np.mean(known))
    assert np.isnan(METRICS["auroc"](outputs, torch.ones(20, 3)))


def test_a_binary_mask_counts_its_pixels():
    outputs, targets = torch.randn(4, 1, 5, 5), (torch.rand(4, 5, 5) > 0.7).float()
    predicted = (outputs[:, 0] > 0).flatten().long()
    truth = targets.flatten().long()
    assert METRICS["accuracy"](outputs, targets) == pytest.approx(reference().accuracy_score(truth, predicted))
    assert METRICS["intersection_over_union"](outputs, targets) == pytest.approx(
        reference().jaccard_score(truth, predicted)
    )
    assert METRICS["auroc"](outputs, targets) == pytest.approx(reference().roc_auc_score(truth, outputs.flatten()))
    assert np.isnan(METRICS["intersection_over_union"](-torch.ones(2, 1, 5, 5), torch.zeros(2, 5, 5)))


def test_probabilities_of_classes_are_measured_by_the_likeliest():
    targets = nn.functional.one_hot(torch.arange(30) % 3, 3).float()
    x = torch.randn(30, 4)
    data = hw.FederatedData("made", hw.Examples(x, targets), {"a": torch.arange(20)}, {"a": torch.arange(20, 30)})
    run = hw.Run(hw.recipes.fedavg(), data, hw.Task(lambda: nn.Linear(4, 3)), rounds=1)
    report = list(run)[-1]
    right = run.model()(x[20:]).argmax(1) == targets[20:].argmax(1)
    assert report.metrics["accuracy"] == pytest.approx(float(right.double().mean()))


def one_class_each(clients=4, size=20):
    """Each client has one class: nowhere is there an area under a curve."""
    x = torch.randn(clients * size, 3, generator=GENERATOR)
    parts = torch.arange(clients * size).split(size)
    train = {f"c{place}": part[:12] for place, part in enumerate(parts)}
    test = {f"c{place}": part[12:] for place, part in enumerate(parts)}
    y = (torch.arange(clients * size) // size) % 2
    return hw.FederatedData("one class", hw.Examples(x + y[:, None], y), train, test, classes=2)


@pytest.mark.parametrize("task", [{}, {"shared": ("0.*",)}], ids=["one model", "a part of one's own"])
def test_a_pooled_metric_is_over_all_clients_examples_together(task):
    def model():
        return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))

    data = one_class_each()
    made = hw.Task(model, metrics=("pooled_auroc", "auroc", "accuracy", "pooled_accuracy"), **task)
    run = hw.Run(hw.recipes.fedavg(), data, made, rounds=2)
    report = list(run)[-1]
    assert "auroc" not in report.metrics
    assert 0 <= report.metrics["pooled_auroc"] <= 1
    assert report.metrics["pooled_accuracy"] == pytest.approx(report.metrics["accuracy"])
    assert run.notes["best"]["metric"] == "pooled_auroc"
    if not task:
        rows = torch.cat([data.test[client] for client in data.clients])
        scores = run.model()(data.store.inputs[rows]).detach()
        wanted = reference().roc_auc_score(data.store.targets[rows], scores[:, 1] - scores[:, 0])
        assert report.metrics["pooled_auroc"] == pytest.approx(wanted)


def test_the_header_says_what_the_figures_of_several_labels_are(headway, tmp_path):
    r = np.random.default_rng(0)
    x, y = r.normal(size=(96, 6)), (r.random((96, 5)) > 0.5).astype("float32")
    np.savez("multi.npz", x=x, y=y, client=np.arange(96) % 4)
    toml(
        "multi.toml", 'source = "multi.npz"', task='loss = "binary_cross_entropy"\nmetrics = ["auroc", "pooled_auroc"]'
    )
    code, out, _ = headway("run", "multi.toml", "--lanes", 2, "--out", "multi")
    assert code == 0
    assert "metrics of each of the 5 labels, and the mean over those for which it is defined" in out
    assert headway("report", "multi", "--out", "multi.html")[0] == 0
    np.savez("masks.npz", x=r.normal(size=(40, 1, 4, 4)), y=r.integers(0, 3, (40, 4, 4)), client=np.arange(40) % 2)
    (tmp_path / "own_masks.py").write_text(
        "from torch import nn\ndef fcn(outputs):\n    return nn.Conv2d(1, outputs, 1)\n"
    )
    toml("masks.toml", 'source = "masks.npz"', 'name = "own_masks:fcn"', task='metrics = ["intersection_over_union"]')
    code, out, _ = headway("run", "masks.toml", "--out", "masks")
    assert code == 0
    assert "metrics over all 16 places of an example (4 x 4)" in out


def test_the_header_names_the_clients_without_an_area_under_the_curve(headway):
    r = np.random.default_rng(0)
    client, y = np.arange(120) % 4, np.arange(120) // 4 % 2
    np.savez("some.npz", x=r.normal(size=(120, 3)), y=np.where(client == 2, 0, y), client=client)
    toml("some.toml", 'source = "some.npz"', task='metrics = ["auroc", "pooled_auroc"]', rounds=1)
    _, out, _ = headway("run", "some.toml", "--out", "some")
    assert "auroc is not defined at 1 of 4 clients, whose test parts have one class (client-2)" in out
    toml("all.toml", 'source = "some.npz"', task='metrics = ["pooled_auroc", "auroc"]', rounds=2)
    code, out, _ = headway("compare", "all.toml", "--methods", "fedavg,fedprox", "--seeds", 2)
    assert code == 0
    assert "Mean pooled_auroc over all clients' test examples together, over round" in out
