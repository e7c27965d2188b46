"""Skew in numbers: closed forms, slow direct references, and what chance gives."""

from math import log, sqrt

import numpy as np
import pytest
import torch

from headway.data import Examples, FederatedData, load, shifted, skew_of
from headway.data.partition.allocation import generator
from headway.data.skew.distance import feature_numbers
from headway.data.skew.skew import Spread
from headway.numerics.keys import Key

IID = {"kind": "iid"}


def dealt(x: np.ndarray, y: np.ndarray, clients: int, seed: int = 0) -> FederatedData:
    """Examples divided at random to equally many at each client."""
    order = np.random.default_rng(seed).permutation(len(x))
    parts = enumerate(np.array_split(order, clients))
    return FederatedData.from_clients({f"c{i:02}": (x[part], y[part]) for i, part in parts})


def test_label_numbers_by_hand() -> None:
    x = [[0.0]]
    data = FederatedData.from_clients({"a": (x * 4, [0, 0, 1, 1], x, [1]), "b": (x * 2, [1, 1])})
    found = skew_of(data)
    a, b = found.clients
    assert (a.client, a.train, a.test, a.labels) == ("a", 4, 1, (2, 2))
    assert (a.entropy, b.entropy) == (pytest.approx(log(2)), 0.0)
    assert (a.effective_classes, b.effective_classes) == (pytest.approx(2.0), 1.0)
    assert (a.label_distance, b.label_distance) == (pytest.approx(1 / 6), pytest.approx(1 / 3))
    assert found.labels is not None
    assert found.labels.mean == pytest.approx(0.25)
    assert found.labels.weighted == pytest.approx(4 / 6 / 6 + 2 / 6 / 3)
    assert found.labels.largest == pytest.approx(1 / 3)
    assert found.size_variation == pytest.approx(1 / 3)
    assert found.size_gini == pytest.approx((2 + 2) / (2 * 2 * 6))
    assert (a.target_mean, found.targets) == (None, None)


def test_gini_and_variation_of_equal_and_of_extreme_sizes() -> None:
    even = skew_of(FederatedData.from_clients({f"c{i}": ([[0.0]] * 3, [0, 1, 0]) for i in range(5)}))
    assert (even.size_gini, even.size_variation) == (0.0, 0.0)
    sizes = [1, 2, 3, 14]
    data = FederatedData.from_clients({f"c{i}": ([[0.0]] * n, [0] * n) for i, n in enumerate(sizes)})
    direct = sum(abs(a - b) for a in sizes for b in sizes) / (2 * 4 * sum(sizes))
    assert skew_of(data).size_gini == pytest.approx(direct)
    assert skew_of(data).size_variation == pytest.approx(np.std(sizes) / 5)


def test_targets_of_regression_by_hand() -> None:
    data = FederatedData.from_clients({"a": ([[0.0]] * 2, [0.0, 2.0]), "b": ([[0.0]] * 2, [4.0, 6.0])})
    found = skew_of(data)
    assert [each.target_mean for each in found.clients] == [1.0, 5.0]
    assert [each.target_std for each in found.clients] == [1.0, 1.0]
    assert [each.target_distance for each in found.clients] == [pytest.approx(2 / sqrt(5))] * 2
    assert (found.clients[0].entropy, found.labels) == (None, None)
    flat = FederatedData.from_clients({"a": ([[0.0]], [1.5]), "b": ([[0.0]], [1.5])})
    assert skew_of(flat).targets == Spread(0.0, 0.0, 0.0, pytest.approx(sqrt(2 / np.pi)))


def test_features_are_compared_within_classes() -> None:
    """The slow reference: residuals from class means, standardised, client by client."""
    rng = np.random.default_rng(0)
    clients = {}
    for i, size in enumerate((7, 12, 20)):
        y = rng.integers(0, 3, size)
        clients[f"c{i}"] = (rng.normal(size=(size, 2, 3)) + y[:, None, None] + 0.2 * i, y)
    data = FederatedData.from_clients(clients)
    x = np.concatenate([part[0].astype(np.float32).reshape(-1, 6).astype(np.float64) for part in clients.values()])
    y = np.concatenate([part[1] for part in clients.values()])
    owner = np.repeat([0, 1, 2], (7, 12, 20))
    r = x - np.stack([x[y == label].mean(axis=0) for label in range(3)])[y]
    s = np.sqrt((r**2).mean(axis=0))
    found = skew_of(data)
    for i, each in enumerate(found.clients):
        mine = r[owner == i]
        assert each.feature_distance == pytest.approx(np.sqrt(((mine.mean(axis=0) / s) ** 2).mean()), rel=1e-6)
        assert each.feature_spread == pytest.approx(np.sqrt(mine.var(axis=0).sum() / (s**2).sum()), rel=1e-6)


def test_features_that_follow_the_labels_are_no_feature_skew() -> None:
    y = np.array([0, 0, 0, 1] * 5 + [1, 1, 1, 0] * 5)
    x = 3.0 * y[:, None] + np.tile([[1.0], [-1.0]], (20, 1))
    data = FederatedData.from_clients({"a": (x[:20], y[:20]), "b": (x[20:], y[20:])})
    found = skew_of(data)
    assert found.labels is not None
    assert found.labels.mean == pytest.approx(0.25)
    assert found.clients[0].feature_distance == pytest.approx(
        abs((x[:20] - np.stack([x[y == k].mean(0) for k in (0, 1)])[y[:20]]).mean())
        / np.sqrt(((x - np.stack([x[y == k].mean(0) for k in (0, 1)])[y]) ** 2).mean()),
        abs=1e-6,
    )
    alone = FederatedData.from_clients({"a": ([[1.0], [2.0]], [0, 0]), "b": ([[7.0], [9.0]], [1, 1])})
    assert [each.feature_distance for each in skew_of(alone).clients] == [0.0, 0.0]


def test_what_chance_gives_is_what_chance_gives() -> None:
    """Dealt at random, labels and features lie as far apart as the formulas say, on average over deals."""
    rng = np.random.default_rng(1)
    y = rng.choice(4, size=600, p=[0.5, 0.3, 0.15, 0.05])
    x = rng.normal(size=(600, 5)).astype(np.float32) + y[:, None]
    labels, features, wanted = [], [], None
    for seed in range(60):
        found = skew_of(dealt(x, y, 12, seed))
        assert found.labels is not None
        assert found.features is not None
        labels.append(found.labels.mean)
        features.append(found.features.mean**2)
        wanted = (found.labels.chance, found.features.chance)
    assert wanted is not None
    assert np.mean(labels) == pytest.approx(wanted[0], rel=0.04)
    assert np.sqrt(np.mean(features)) == pytest.approx(wanted[1], rel=0.04)


def test_regression_targets_by_chance() -> None:
    rng = np.random.default_rng(2)
    y = rng.normal(size=400).astype(np.float32)
    found = [skew_of(dealt(np.zeros((400, 1), np.float32), y, 8, seed)).targets for seed in range(80)]
    means = [each.mean for each in found if each]
    assert found[0] is not None
    assert np.mean(means) == pytest.approx(found[0].chance, rel=0.08)


def test_a_shift_of_features_is_seen_though_labels_are_alike() -> None:
    rng = np.random.default_rng(3)
    y = np.arange(400) % 2
    data = dealt(rng.random((400, 1, 6, 6)).astype(np.float32) + y[:, None, None, None], y, 4)
    before, after = skew_of(data), skew_of(shifted(data, {"kind": "colour", "bias": 1.0}))
    assert before.features is not None
    assert after.features is not None
    assert before.labels == after.labels
    assert before.features.weighted < 1.5 * before.features.chance
    assert after.features.weighted > 5 * after.features.chance
    assert "features within a class as alike as chance would make them" in before.sentence()
    assert "times as far apart as by chance (mean" in after.sentence()
    assert after.sentence().endswith("all of them shifted.")
    noisy = skew_of(shifted(data, {"kind": "noise", "level": 1.0}))
    assert "they vary 0.67 to 1.2 times as much" in noisy.sentence()
    assert "they vary" not in before.sentence()
    spreads = [each.feature_spread for each in noisy.clients]
    wanted = np.sqrt(np.array([1 / 12 + i / 4 for i in (1, 2, 3, 4)]) / (1 / 12 + 10 / 16))
    assert spreads == pytest.approx(wanted, rel=0.05)


def test_constant_features_and_tokens_are_left_out() -> None:
    x = np.stack([np.full(40, 0.1, np.float32), generator(Key.root(0)).normal(size=40).astype(np.float32)], axis=1)
    y = np.arange(40) % 2
    both, one = (skew_of(dealt(part, y, 4)) for part in (x, x[:, 1:]))
    assert [c.feature_distance for c in both.clients] == pytest.approx([c.feature_distance for c in one.clients])
    constant = skew_of(dealt(x[:, :1], y, 4))
    assert {c.feature_distance for c in constant.clients} == {0.0}
    assert {c.feature_spread for c in constant.clients} == {1.0}
    tokens = FederatedData.from_clients({"a": ([[1, 2]], [0]), "b": ([[3, 1]], [1])})
    assert feature_numbers(tokens) is None
    assert skew_of(tokens).features is None


def test_bytes_count_like_the_numbers_they_are() -> None:
    pixels = torch.randint(0, 256, (8, 1, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    held = {"a": torch.arange(3), "b": torch.arange(3, 8)}
    labels = torch.arange(8) % 2
    one, other = (
        skew_of(FederatedData("x", Examples(inputs, labels), held, classes=2)) for inputs in (pixels, pixels.float())
    )
    assert one == other


def test_one_client_is_as_alike_as_can_be() -> None:
    found = skew_of(FederatedData.from_clients({"a": ([[0.0], [1.0]], [0, 1])}))
    assert found.labels == Spread(0.0, 0.0, 0.0, 0.0)
    assert found.sentence() == "1 client with 2 training examples, so there is no other client to compare with."


def test_sentences_say_how_unlike() -> None:
    classes = load("synthetic", key=0, clients=5, largest=80)
    assert "very unlike" in skew_of(classes).sentence()
    parts = {"a": ([[0.0]] * 8, [0] * 8), "b": ([[0.0]] * 8, [1] * 8)}
    text = skew_of(FederatedData.from_clients(parts)).sentence()
    assert "label mixes very unlike: 50 % of the examples would need another class" in text
    regression = {"a": ([[0.0]] * 50, [0.0, 1.0] * 25), "b": ([[0.0]] * 50, [5.0, 6.0] * 25)}
    assert "targets" in skew_of(FederatedData.from_clients(regression)).sentence()
    assert "(mean difference 0.98 standard deviations)" in skew_of(FederatedData.from_clients(regression)).sentence()
