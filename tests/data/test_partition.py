"""Partitioners: every example once, the papers' equations, and every refusal."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headway.core.errors import ConfigError, DataError
from headway.data import PARTITIONERS, Partitioner, partitioner
from headway.data.partition.allocation import generator
from headway.numerics.keys import Key

KEY = Key.root(5)
DRAWN = [
    partitioner("iid"),
    partitioner("dirichlet-niid", alpha=0.5, min_examples=1),
    partitioner("dirichlet-class", alpha=0.5),
    partitioner("dirichlet-client", alpha=0.5),
    partitioner("quantity", alpha=0.8, min_examples=1),
    partitioner("shards", per_client=2),
    partitioner("power-law", min_examples=1),
]
NEEDED = {"classes": {"per_client": 1}, "iid": {}, "shards": {}, "column": {}, "power-law": {}}


def kind_of(partition: Partitioner) -> str:
    return partition.kind


def sizes(parts: list[Tensor]) -> list[int]:
    return [len(part) for part in parts]


@pytest.mark.parametrize("partition", DRAWN, ids=kind_of)
@settings(max_examples=25, deadline=None)
@given(
    labels=st.lists(st.integers(0, 5), min_size=30, max_size=80),
    clients=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_every_example_goes_to_exactly_one_client(
    partition: Partitioner, labels: list[int], clients: int, seed: int
) -> None:
    parts = partition.assign(torch.tensor(labels), clients, Key.root(seed))
    assert len(parts) == clients
    assert all(torch.equal(part, part.sort().values) and len(part) for part in parts)
    assert torch.cat(parts).sort().values.tolist() == list(range(len(labels)))


@pytest.mark.parametrize("partition", DRAWN, ids=kind_of)
def test_the_key_decides(partition: Partitioner) -> None:
    labels = torch.arange(200) % 4
    first = partition.assign(labels, 5, KEY)
    assert all(itertools.starmap(torch.equal, zip(first, partition.assign(labels, 5, KEY), strict=True)))
    other = partition.assign(labels, 5, Key.root(6))
    assert not all(len(a) == len(b) and torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("kind", ["dirichlet-niid", "dirichlet-class", "dirichlet-client"])
def test_a_huge_alpha_gives_every_client_the_pooled_mix(kind: str) -> None:
    labels = torch.arange(4000) % 4
    for part in partitioner(kind, alpha=1e6).assign(labels, 4, KEY):
        assert torch.bincount(labels[part]).numpy() == pytest.approx([250] * 4, abs=100)


def test_iid_sizes_differ_by_at_most_one() -> None:
    assert sizes(partitioner("iid").assign(torch.zeros(11), 4, KEY)) == [3, 3, 3, 2]


def test_dirichlet_class_has_the_second_moment_of_the_dirichlet() -> None:
    classes, each, clients, alpha = 200, 200, 5, 0.5
    labels = torch.arange(classes).repeat_interleave(each)
    parts = partitioner("dirichlet-class", alpha=alpha).assign(labels, clients, KEY)
    shares = torch.stack([torch.bincount(labels[part], minlength=classes) for part in parts]) / each
    assert float((shares**2).mean()) == pytest.approx((alpha + 1) / (clients * (clients * alpha + 1)), rel=0.1)


def test_dirichlet_class_draws_no_remainder_away() -> None:
    labels = torch.tensor([0] * 7 + [1] * 5)
    assert sum(sizes(partitioner("dirichlet-class", alpha=1.0).assign(labels, 5, KEY))) == 12


def test_dirichlet_niid_follows_the_published_loop() -> None:
    labels, clients, alpha, minimum = torch.arange(300) % 6, 6, 0.2, 10
    expected = None
    for attempt in range(2000):
        rng = generator(KEY.derive("shares", attempt))
        held: list[list[int]] = [[] for _ in range(clients)]
        for label in range(6):
            members = [label] * 50
            shares = rng.dirichlet(np.repeat(alpha, clients))
            shares = np.array([p * (len(h) < 300 / clients) for p, h in zip(shares, held, strict=True)])
            cuts = (np.cumsum(shares / shares.sum()) * len(members)).astype(int)[:-1]
            held = [h + part.tolist() for h, part in zip(held, np.split(members, cuts), strict=True)]
        if min(map(len, held)) >= minimum:
            expected = [np.bincount(h, minlength=6).tolist() for h in held]
            break
    parts = partitioner("dirichlet-niid", alpha=alpha).assign(labels, clients, KEY)
    assert [torch.bincount(labels[part], minlength=6).tolist() for part in parts] == expected


def test_dirichlet_niid_holds_its_minimum_and_its_balance() -> None:
    labels = torch.arange(1000) % 10
    held = sizes(partitioner("dirichlet-niid", alpha=0.1).assign(labels, 8, KEY))
    assert min(held) >= 10
    assert max(held) < 125 + 100  # at most one class beyond N/n


def test_dirichlet_niid_spreads_evenly_where_shares_underflow() -> None:
    parts = partitioner("dirichlet-niid", alpha=1e-300, min_examples=1).assign(torch.arange(40) % 8, 4, KEY)
    assert sum(sizes(parts)) == 40


def test_dirichlet_client_gives_equal_sizes_and_the_second_moment_of_its_prior() -> None:
    labels = torch.tensor([0] * 900 + [1] * 300)
    alpha, squares, means = 1.0, [], []
    for seed in range(2000):
        key = Key.root(seed)
        parts = partitioner("dirichlet-client", alpha=alpha).assign(labels, 7, key)
        assert sorted(sizes(parts)) == [171, 171, 171, 171, 172, 172, 172]
        first = parts[int(key.derive("turns").permutation(7)[0])]  # nothing has run out yet
        share = float((labels[first] == 0).double().mean())
        means.append(share)
        squares.append(share**2)
    assert np.mean(means) == pytest.approx(0.75, abs=0.025)
    assert np.mean(squares) == pytest.approx(0.75**2 + 0.75 * 0.25 / (alpha + 1), abs=0.025)


def test_dirichlet_client_with_tiny_alpha_is_one_class_each() -> None:
    labels = torch.arange(400) % 4
    parts = partitioner("dirichlet-client", alpha=1e-4).assign(labels, 4, KEY)
    kinds = [len(labels[part].unique()) for part in parts]
    assert kinds.count(1) >= 2


def test_column_gives_each_owner_its_own() -> None:
    parts = partitioner("column").assign(torch.tensor([2, 0, 1, 0]), 3, KEY)
    assert [part.tolist() for part in parts] == [[1, 3], [2], [0]]
    with pytest.raises(DataError, match=r"owner is not among the clients 0 to 2"):
        partitioner("column").assign(torch.tensor([0, 1, 2, 3]), 3, KEY)


@pytest.mark.parametrize("kind", sorted(PARTITIONERS))
def test_impossible_counts_are_refused(kind: str) -> None:
    partition = partitioner(kind, **NEEDED.get(kind, {"alpha": 1.0}))
    with pytest.raises(DataError, match=r"0 clients were asked for"):
        partition.assign(torch.zeros(4, dtype=torch.int64), 0, KEY)
    with pytest.raises(DataError, match=r"4 examples cannot be divided among 5 clients"):
        partition.assign(torch.zeros(4, dtype=torch.int64), 5, KEY)


@pytest.mark.parametrize("kind", ["dirichlet-niid", "dirichlet-class", "dirichlet-client"])
def test_dirichlet_refusals(kind: str) -> None:
    for alpha in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DataError, match=rf"alpha of '{kind}' is .* above 0"):
            partitioner(kind, alpha=alpha)
    with pytest.raises(
        DataError, match=r"goes by class labels, but the target is a number: use 'iid', 'quantity' or 'power-law'"
    ):
        partitioner(kind, alpha=1.0).assign(torch.zeros(40), 2, KEY)


@pytest.mark.parametrize("kind", ["dirichlet-niid", "dirichlet-class"])
def test_min_examples_that_cannot_be_met_are_refused(kind: str) -> None:
    labels = torch.arange(20) % 2
    with pytest.raises(DataError, match=r"min_examples of .* is 0"):
        partitioner(kind, alpha=1.0, min_examples=0)
    with pytest.raises(DataError, match=r"20 examples cannot give each of 3 clients 7"):
        partitioner(kind, alpha=1.0, min_examples=7).assign(labels, 3, KEY)
    with pytest.raises(DataError, match=r"2000 draws of .* with alpha 0.01 never gave each of 4 clients 5"):
        partitioner(kind, alpha=0.01, min_examples=5).assign(labels, 4, KEY)


@pytest.mark.parametrize(
    ("kind", "numbers", "sentence"),
    [
        ("dirichlet-clas", {}, "no partition 'dirichlet-clas' .did you mean 'dirichlet-class'"),
        ("iid", {"alpha": 1.0}, "'iid' has no parameter 'alpha'"),
        ("dirichlet-class", {"alfa": 1.0}, "did you mean 'alpha'"),
        ("dirichlet-class", {}, "'dirichlet-class' needs the parameter 'alpha'"),
        ("dirichlet-class", {"alpha": "0.1"}, "'alpha' .* is '0.1', not a number"),
        ("dirichlet-class", {"alpha": True}, "is True, not a number"),
        ("dirichlet-class", {"alpha": 1.0, "min_examples": 2.5}, "is 2.5, not a whole number"),
    ],
)
def test_names_and_numbers_are_checked(kind: str, numbers: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        partitioner(kind, **numbers)


def test_a_partition_equals_its_rebuild() -> None:
    assert partitioner("dirichlet-niid", alpha=1) == partitioner("dirichlet-niid", alpha=1, min_examples=10)


@settings(max_examples=40, deadline=None)
@given(classes=st.integers(1, 7), clients=st.integers(1, 12), per_client=st.integers(1, 4), seed=st.integers(0, 99))
def test_classes_gives_each_client_so_many_and_leaves_no_example_out(
    classes: int, clients: int, per_client: int, seed: int
) -> None:
    labels = torch.arange(40 * classes) % classes
    partition = partitioner("classes", per_client=per_client)
    if not per_client <= classes <= per_client * clients:
        with pytest.raises(
            DataError, match=rf"{clients} clients with {per_client} classes each cannot share {classes}"
        ):
            partition.assign(labels, clients, Key.root(seed))
        return
    parts = partition.assign(labels, clients, Key.root(seed))
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(labels)))
    for client, part in enumerate(parts):
        held = labels[part].unique()
        assert len(held) == per_client
        assert client % classes in held
    for label in range(classes):
        shares = [int((labels[part] == label).sum()) for part in parts if bool((labels[part] == label).any())]
        assert max(shares) - min(shares) <= 1


def test_classes_refuses_more_holders_than_examples() -> None:
    with pytest.raises(DataError, match=r"class 1 has 1 example, fewer than the 4 of 4 clients that are to hold it"):
        partitioner("classes", per_client=2).assign(torch.tensor([0, 0, 0, 0, 0, 1]), 4, KEY)


def test_shards_hold_few_classes_and_are_equally_large() -> None:
    labels = torch.arange(600) % 10
    parts = partitioner("shards", per_client=2).assign(labels, 10, KEY)
    assert sizes(parts) == [60] * 10
    assert max(len(labels[part].unique()) for part in parts) <= 4
    with pytest.raises(DataError, match=r"5 examples cannot be cut into 6 shards"):
        partitioner("shards", per_client=2).assign(torch.zeros(5, dtype=torch.int64), 3, KEY)


def test_quantity_differs_in_size_and_not_in_mix() -> None:
    labels = torch.arange(20_000) % 4
    parts = partitioner("quantity", alpha=0.5).assign(labels, 6, KEY)
    held = sizes(parts)
    assert max(held) > 3 * min(held) >= 30
    for part in parts:
        if len(part) > 2000:
            assert torch.bincount(labels[part]).numpy() / len(part) == pytest.approx([0.25] * 4, abs=0.05)


def test_quantity_has_the_second_moment_of_the_dirichlet() -> None:
    """For q ~ Dir(a, ..., a) over n clients, E sum q^2 = (a + 1) / (n a + 1)."""
    partition, n, a = partitioner("quantity", alpha=0.7, min_examples=1), 5, 0.7
    labels = torch.zeros(5000, dtype=torch.int64)
    shares = [np.array(sizes(partition.assign(labels, n, Key.root(i)))) / 5000 for i in range(1500)]
    assert np.mean([np.square(each).sum() for each in shares]) == pytest.approx((a + 1) / (n * a + 1), abs=0.012)


@pytest.mark.parametrize("exponent", [0.0, 0.7, 2.0])
def test_power_law_sizes_are_the_formula(exponent: float) -> None:
    """n_r = m + (N - n m) r^-a / sum_s s^-a, within one of rounding, summing to N; and the mix stays."""
    count, clients, least = 20_000, 7, 30
    labels = torch.arange(count) % 4
    parts = partitioner("power-law", exponent=exponent, min_examples=least).assign(labels, clients, KEY)
    weights = [rank**-exponent for rank in range(1, clients + 1)]
    wanted = [least + (count - clients * least) * weight / sum(weights) for weight in weights]
    assert sum(sizes(parts)) == count
    assert sorted(sizes(parts), reverse=True) == pytest.approx(wanted, abs=1.0)
    largest = max(parts, key=len)
    assert torch.bincount(labels[largest]).numpy() / len(largest) == pytest.approx([0.25] * 4, abs=0.04)


def test_power_law_ranks_go_to_clients_at_random() -> None:
    rule, labels = partitioner("power-law"), torch.zeros(500, dtype=torch.int64)
    firsts = {int(np.argmax(sizes(rule.assign(labels, 5, Key.root(seed))))) for seed in range(40)}
    assert firsts == set(range(5))


def test_power_law_refusals() -> None:
    for exponent in (-0.1, float("nan"), float("inf")):
        with pytest.raises(DataError, match=r"exponent of 'power-law' is .* at least 0"):
            partitioner("power-law", exponent=exponent)
    with pytest.raises(DataError, match=r"20 examples cannot give each of 3 clients 10"):
        partitioner("power-law").assign(torch.zeros(20), 3, KEY)


@pytest.mark.parametrize("kind", ["classes", "shards"])
def test_per_client_must_be_positive(kind: str) -> None:
    with pytest.raises(DataError, match=rf"per_client of '{kind}' is 0"):
        partitioner(kind, per_client=0)
