"""Test parts of one class, or without examples: what is not defined is said before training, and another decides."""

import json

import numpy as np
import pytest
from mk import blobs, toml


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Six clients; of one class each, but for those that have both."""
    monkeypatch.chdir(tmp_path)

    def write(both=(), share=0.2, metrics='["auroc", "balanced_accuracy"]'):
        x, _ = blobs(n=120, k=2)
        y = np.repeat([0, 1], 60)
        for client in both:
            y[20 * client : 20 * client + 20 : 2] = 1 - y[20 * client]
        np.savez("one.npz", x=x + y[:, None], y=y, client=np.repeat(np.arange(6), 20))
        toml("a.toml", f'source = "one.npz"\ntest_share = {share}', task=f"metrics = {metrics}", rounds=2)

    return write


def test_another_metric_decides_and_both_are_said(headway, write, tmp_path):
    write()
    code, out, _ = headway("run", "a.toml", "--out", "one")
    assert code == 0
    head, _, table = out.partition("round 1/2")
    assert "auroc is not defined: it needs both classes" in head
    assert "balanced_accuracy decides which model is best" in head
    assert "not defined" in table
    assert "Best balanced_accuracy" in table
    assert headway("export", "one", "--best")[0] == 0
    code, out, _ = headway("report", "one")
    assert "Mean balanced_accuracy" in out
    page = (tmp_path / "one" / "report.html").read_text()
    assert "Auroc is not defined: it needs both classes" in page


def test_one_client_with_both_classes_defines_it(headway, write):
    write(both=[2])
    out = headway("run", "a.toml")[1]
    assert "is not defined:" not in out
    assert "Best auroc" in out


def test_a_comparison_has_one_metric_for_all_seeds(headway, write, tmp_path):
    write()
    compare = ("compare", "a.toml", "--methods", "fedavg,fedprox", "--seeds", "2", "--workers", "1", "--out", "c")
    code, out, _ = headway(*compare)
    assert code == 0
    assert "balanced_accuracy decides instead" in out
    assert json.loads((tmp_path / "c" / "results.json").read_text())["comparison"]["metric"] == "balanced_accuracy"
    assert "nan" not in (tmp_path / "c" / "table.md").read_text().lower()
    assert headway("report", "c")[0] == 0


@pytest.mark.parametrize("share", [0, 0.01])
def test_nothing_to_evaluate(headway, write, share):
    write(share=share)
    code, out, _ = headway("run", "a.toml", "--out", "one")
    assert code == 0
    assert (
        "nothing is evaluated, so no best model is kept: no client has test examples" in out.partition("round 1/2")[0]
    )
    assert "leave out --best for the last model" in headway("export", "one", "--best")[2]
    assert headway("export", "one")[0] == 0
    code, out, _ = headway("report", "one")
    assert (code, "auroc is not defined: no client has test examples" in out) == (0, True)
    code, _, err = headway("compare", "a.toml", "--methods", "fedavg,fedprox", "--seeds", "2")
    assert (code, "but no client has test examples" in err) == (1, True)


def test_only_undefined_metrics_leave_the_loss_to_decide(headway, write):
    write(metrics='["auroc"]')
    out = headway("run", "a.toml")[1]
    assert "loss decides which model is best" in out
    assert "Best loss" in out


def test_the_area_over_all_examples_together_is_offered_and_defined(headway, write):
    write()
    assert "pooled_auroc takes all clients' together" in headway("run", "a.toml")[1]
    write(metrics='["auroc", "pooled_auroc"]')
    assert "pooled_auroc decides which model is best" in headway("run", "a.toml")[1]
