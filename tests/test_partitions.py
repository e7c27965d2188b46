"""The laws of partitions, over every registered one; a new one needs an example in `EXAMPLES`."""

import dataclasses
import random
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from headway.core.errors import ConfigError, DataError
from headway.data import PARTITIONERS, partitioner
from headway.numerics.keys import Key

KEY = Key.root(7)
EXAMPLES = {
    "iid": [{}],
    "dirichlet-niid": [{"alpha": 0.3}, {"alpha": 100.0, "min_examples": 2}],
    "dirichlet-class": [{"alpha": 0.5}, {"alpha": 0.3, "min_examples": 3}],
    "dirichlet-client": [{"alpha": 0.2}, {"alpha": 50.0}],
    "classes": [{"per_client": 2}, {"per_client": 1}],
    "shards": [{}, {"per_client": 3}],
    "quantity": [{"alpha": 0.5, "min_examples": 4}],
    "power-law": [{}, {"exponent": 2.0, "min_examples": 1}],
    "column": [{}],
}
CASES = [
    pytest.param(kind, numbers, id=f"{kind}-{at}") for kind, all_ in EXAMPLES.items() for at, numbers in enumerate(all_)
]
OUT_OF_RANGE = {
    "alpha": (0.0, -1.0, float("inf"), float("nan")),
    "min_examples": (0, -3),
    "per_client": (0, -1),
    "exponent": (-1.0, float("nan")),
    "bins": (1, 0, -2),
}


def labels_of(kind, clients=4, count=120):
    """Class labels of unequal frequency; owners for the partition that goes by them."""
    if kind == "column":
        return torch.arange(count) % clients
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.choice(4, size=count, p=[0.4, 0.3, 0.2, 0.1]))


def assigned(kind, numbers, key=KEY, clients=4, count=120):
    return partitioner(kind, **numbers).assign(labels_of(kind, clients, count), clients, key)


def same(one, other):
    return len(one) == len(other) and all(map(torch.equal, one, other))


def test_every_registered_partition_has_an_example() -> None:
    assert set(EXAMPLES) == {name for name in PARTITIONERS if PARTITIONERS.package(name) is None}


@pytest.mark.parametrize(("kind", "numbers"), CASES)
@pytest.mark.parametrize(("clients", "count"), [(4, 120), (1, 60), (7, 200)])
def test_every_example_belongs_to_exactly_one_client(kind, numbers, clients, count) -> None:
    if kind == "classes" and clients * numbers["per_client"] < 4:
        with pytest.raises(DataError, match="cannot share 4 classes"):
            assigned(kind, numbers, clients=clients, count=count)
        return
    if kind == "classes" and clients == 1:
        numbers = {"per_client": 4}
    parts = assigned(kind, numbers, clients=clients, count=count)
    assert len(parts) == clients
    assert all(part.dtype == torch.int64 and part.ndim == 1 for part in parts)
    assert all(bool((part.diff() > 0).all()) for part in parts)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(count))
    assert all(len(part) for part in parts)


@pytest.mark.parametrize(("kind", "numbers"), CASES)
def test_a_partition_is_a_function_of_its_numbers_and_the_key(kind, numbers) -> None:
    first = assigned(kind, numbers)
    torch.manual_seed(1)
    np.random.seed(2)
    random.seed(3)
    for other in EXAMPLES:  # what was drawn before decides nothing
        assigned(other, EXAMPLES[other][0], Key.root(99))
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert same(assigned(kind, numbers), first)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


@pytest.mark.parametrize(("kind", "numbers"), CASES)
def test_another_key_gives_another_division_unless_nothing_is_drawn(kind, numbers) -> None:
    one, other = (assigned(kind, numbers, key, clients=8) for key in (KEY, Key.root(8)))
    assert same(one, other) == (kind == "column")


@pytest.mark.parametrize(("kind", "numbers"), CASES)
def test_a_partition_is_rebuilt_from_its_numbers_and_leaves_the_labels_alone(kind, numbers) -> None:
    made = partitioner(kind, **numbers)
    assert partitioner(kind, **dataclasses.asdict(made)) == made
    assert type(made) is PARTITIONERS[kind]
    labels = labels_of(kind)
    kept = labels.clone()
    made.assign(labels, 4, KEY)
    assert torch.equal(labels, kept)


@pytest.mark.parametrize("kind", [kind for kind in EXAMPLES if kind != "column"])
def test_the_names_of_the_classes_decide_nothing(kind) -> None:
    labels, numbers = labels_of(kind), EXAMPLES[kind][0]
    spread = torch.tensor([3, 70, 71, 4000])[labels]  # in the same order
    one, other = (partitioner(kind, **numbers).assign(each, 4, KEY) for each in (labels, spread))
    assert same(one, other)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_wrong_options_are_refused_by_name(kind) -> None:
    numbers = EXAMPLES[kind][0]
    with pytest.raises(ConfigError, match=rf"the partition '{kind}' has no parameter 'wrong'"):
        partitioner(kind, **numbers, wrong=1)
    cls = PARTITIONERS[kind]
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kinds = get_args(hints[field.name]) or (hints[field.name],)
        values = ["much", True, [1], *([] if type(None) in kinds else [None]), *([1.5] if float not in kinds else [])]
        for value in values:
            with pytest.raises(ConfigError, match=f"the parameter '{field.name}' of the partition '{kind}' is"):
                partitioner(kind, **{**numbers, field.name: value})
        for value in OUT_OF_RANGE[field.name]:
            with pytest.raises(DataError, match=f"{field.name} of '{kind}'"):
                partitioner(kind, **{**numbers, field.name: value})
        if field.default is dataclasses.MISSING:
            with pytest.raises(ConfigError, match=f"the partition '{kind}' needs the parameter '{field.name}'"):
                partitioner(kind, **{name: value for name, value in numbers.items() if name != field.name})


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("clients", [0, -1, 121])
def test_too_few_and_too_many_clients_are_refused(kind, clients) -> None:
    with pytest.raises(DataError, match=r"at least 1 is needed|cannot be divided among"):
        partitioner(kind, **EXAMPLES[kind][0]).assign(labels_of(kind), clients, KEY)


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"there is no partition 'dirichlet-clas' .did you mean 'dirichlet-class'"):
        partitioner("dirichlet-clas", alpha=1.0)
