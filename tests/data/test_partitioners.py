"""Divisions end within seconds with the division that is named, or a sentence that says which number to change."""

import numpy as np
import pytest
import torch
from mk import toml

from headway.core.errors import DataError
from headway.data import partitioner
from headway.data.partition import allocation as dealing
from headway.numerics.keys import Key

SIZES = [3000, 1500, 700, 300, 150, 70, 30, 10, 3, 1]  # sorted, and very unlike
LABELS = torch.arange(10).repeat_interleave(torch.tensor(SIZES))
DIRICHLET = ["dirichlet-niid", "dirichlet-class", "dirichlet-client"]


def counts_of(parts):
    return torch.stack([torch.bincount(LABELS[part], minlength=10) for part in parts])


@pytest.mark.parametrize("kind", DIRICHLET)
@pytest.mark.parametrize("alpha", [1e-300, 0.001, 0.05, 0.5, 100, 1e6, 1e300, 1.7e308])
@pytest.mark.parametrize("clients", [1, 3, 100])
def test_each_example_is_held_once_or_a_number_is_named(kind, alpha, clients):
    rule = partitioner(kind, alpha=alpha)
    if kind != "dirichlet-client" and alpha < 0.5 and clients == 100:
        with pytest.raises(DataError, match="use a larger alpha or fewer clients"):
            rule.assign(LABELS, clients, Key.root(0))
        return
    parts = rule.assign(LABELS, clients, Key.root(0))
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(LABELS)))
    assert sum(bool(row[-1]) for row in counts_of(parts)) == 1  # the class with one example is with one client


@pytest.mark.parametrize("alpha", [1e-300, 1e-6])
def test_a_class_is_not_spread_where_the_shares_are_too_small_for_a_float(alpha):
    """Two clients, of which the one that has its half takes no more: a class still goes to one of them, not to both."""
    labels = torch.arange(4).repeat_interleave(100)
    for seed in range(5):
        parts = partitioner("dirichlet-niid", alpha=alpha, min_examples=1).assign(labels, 4, Key.root(seed))
        for part in parts:
            assert sorted(torch.bincount(labels[part], minlength=4).tolist()) == [0, 0, 0, 100]


@pytest.mark.parametrize("alpha", [1e-300, 1e-6])
def test_a_client_whose_class_has_run_out_goes_on_with_one_other(alpha):
    labels = torch.arange(3).repeat_interleave(torch.tensor([30, 60, 90]))
    parts = partitioner("dirichlet-client", alpha=alpha).assign(labels, 6, Key.root(1))
    held = torch.stack([torch.bincount(labels[part], minlength=3) for part in parts])
    assert torch.equal(held.sum(1), torch.full((6,), 30))
    assert int((held > 0).sum()) == 6  # 30, 60 and 90 are multiples of a client's 30, so that no class is parted


@pytest.mark.parametrize("kind", DIRICHLET)
def test_without_skew_all_clients_have_the_mix_of_all(kind):
    parts = partitioner(kind, alpha=1.7e308).assign(LABELS, 5, Key.root(0))
    shares = counts_of(parts) / counts_of(parts).sum(1, keepdim=True)
    assert float((shares - counts_of(parts).sum(0) / len(LABELS)).abs().max()) < 0.04


def test_hopeless_draws_are_given_up_early_and_others_are_not(monkeypatch):
    drawn = []
    monkeypatch.setattr(dealing, "generator", lambda key, of=dealing.generator: drawn.append(1) or of(key))
    with pytest.raises(DataError, match=r"10 draws of 'dirichlet-niid' .* had fewer"):
        partitioner("dirichlet-niid", alpha=0.001).assign(LABELS, 100, Key.root(0))
    drawn.clear()
    with pytest.raises(DataError, match=r"or min_examples = \d+, which a draw met"):
        partitioner("dirichlet-niid", alpha=0.5, min_examples=1921).assign(LABELS, 3, Key.root(0))
    assert len(drawn) == 2000  # of three clients, a draw may always succeed


def test_iid_does_not_keep_the_order_of_sorted_classes():
    held = counts_of(partitioner("iid").assign(LABELS, 100, Key.root(0)))
    assert float((held[:, 0] / held.sum(1) - 3000 / 5764).abs().max()) < 0.3
    assert len(partitioner("iid").assign(LABELS, 5764, Key.root(0))) == 5764
    with pytest.raises(DataError, match="5764 examples cannot be divided among 5765 clients; ask for fewer clients"):
        partitioner("iid").assign(LABELS, 5765, Key.root(0))


def test_a_rare_class_and_too_many_shards_name_what_to_change():
    with pytest.raises(DataError, match=r"class \d has \d+ examples?, fewer than the \d+ of 100 clients .* per_client"):
        partitioner("classes", per_client=2).assign(LABELS, 100, Key.root(0))
    with pytest.raises(DataError, match="6000 shards; ask for fewer clients or a smaller per_client"):
        partitioner("shards", per_client=2).assign(LABELS, 3000, Key.root(0))


@pytest.mark.parametrize("kind", [*DIRICHLET, "classes", "shards"])
def test_a_number_is_divided_by_bins_or_refused_with_what_works(kind):
    target = torch.arange(1000.0).flip(0) ** 2
    options = {"per_client": 1} if kind in ("classes", "shards") else {"alpha": 0.01}
    with pytest.raises(DataError, match=r"the target is a number: use 'iid', 'quantity' or 'power-law'.* bins = 5"):
        partitioner(kind, **options).assign(target, 5, Key.root(0))
    for shaped in (target, target[:, None]):
        parts = partitioner(kind, **options, bins=5).assign(shaped, 5, Key.root(3))
        assert torch.equal(torch.cat(parts).sort().values, torch.arange(1000))
        assert min(float(target[part].std(correction=0)) for part in parts) < 0.5 * float(target.std())
    with pytest.raises(DataError, match=r"bins of .* is 1, but at least 2 are needed"):
        partitioner(kind, **options, bins=1)


def test_equal_targets_are_in_one_bin():
    group, sizes = dealing.groups(torch.tensor([0.0] * 90 + [1.0] * 10), "shards", 5)
    assert sizes.tolist() == [90, 10]
    assert group[:90].unique().numel() == 1


def test_bins_reach_the_run_file(headway):
    r = np.random.default_rng(0)
    np.savez("d.npz", x=r.normal(size=(200, 3)).astype("f4"), y=r.normal(size=200).astype("f4"))
    toml("a.toml", 'source = "d.npz"\nclients = 4\npartition = { kind = "dirichlet-client", alpha = 0.3 }', rounds=1)
    assert "bins = 5" in headway("run", "a.toml")[2]
    assert headway("run", "a.toml", "--set", "data.partition.bins=5")[0] == 0
