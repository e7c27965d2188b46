"""Who holds what: construction, refusals, fingerprints, summaries."""

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from headway.core.errors import DataError
from headway.data import Examples, FederatedData


def index(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def store(count: int = 6) -> Examples:
    return Examples(torch.arange(2.0 * count).reshape(count, 2), torch.arange(count) % 2)


def build(**changes: object) -> FederatedData:
    given: dict[str, object] = {
        "name": "toy",
        "store": store(),
        "train": {"b": index(3, 4), "a": index(0, 1)},
        "test": {"a": index(2)},
        "classes": 2,
    }
    return FederatedData(**(given | changes))  # type: ignore[arg-type]


def test_parts_are_the_indexed_examples() -> None:
    data = build()
    assert data.clients == ("a", "b")
    assert data.input_shape == (2,)
    assert data.train_of("b").inputs.tolist() == [[6.0, 7.0], [8.0, 9.0]]
    assert data.test_of("a").targets.tolist() == [0]
    assert len(data.test_of("b")) == 0


def test_summary_counts_training_labels() -> None:
    first, second = build().summary()
    assert (first.client, first.train, first.test, first.labels) == ("a", 2, 1, (1, 1))
    assert (second.client, second.train, second.test, second.labels) == ("b", 2, 0, (1, 1))
    regression = build(store=Examples(torch.zeros(6, 2), torch.zeros(6)), classes=None)
    assert regression.summary()[0].labels is None


def test_a_client_may_hold_a_single_example() -> None:
    assert len(build(train={"a": index(0)}, test={}).train_of("a")) == 1


def test_pickled_data_are_the_same_data() -> None:
    assert pickle.loads(pickle.dumps(build())).fingerprint() == build().fingerprint()


def test_fingerprint_is_of_contents_and_holders() -> None:
    same = build().fingerprint()
    changed = store()
    changed.inputs[5, 1] += 1e-3
    others = [
        build(store=changed),
        build(train={"a": index(0), "b": index(3, 4)}),
        build(train={"a": index(0, 1), "c": index(3, 4)}),
        build(test={"a": index(5)}),
        build(central=store(1)),
        build(store=Examples(store().inputs.double(), store().targets)),
    ]
    prints = {same, *(other.fingerprint() for other in others)}
    assert build(name="renamed").fingerprint() == same
    assert len(prints) == 1 + len(others)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train": {}, "test": {}}, "'toy' has no client"),
        ({"train": {"a": index(0), "b": index()}}, "client 'b' has no training example"),
        ({"test": {"c": index(5)}}, "client 'c' has a test part but no training part"),
        ({"train": {"a": index(0, 6)}}, "client 'a' names the training example 6.*0 to 5"),
        ({"test": {"a": index(-1)}}, "client 'a' names the test example -1"),
        ({"train": {"a": torch.tensor([0.0])}}, "training indices of client 'a' must be int64"),
        ({"train": {"a": index(0), "b": index(0)}}, "example 0 is held more than once .by 'a', 'b'."),
        ({"test": {"a": index(0)}}, "example 0 is held more than once"),
        (
            {"central": Examples(torch.zeros(2, 3), torch.zeros(2).long())},
            "the central test set has inputs of shape",
        ),
        ({"classes": 1}, "the label of example 1 of client 'a' is outside 0 to 0"),
        ({"store": Examples(torch.zeros(6, 2), torch.zeros(6))}, "2 classes, but its targets are not whole"),
    ],
)
def test_refusals(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        build(**changes)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_counted_and_located(value: float) -> None:
    bad = store()
    bad.inputs[3:5, 0] = value
    with pytest.raises(DataError, match=r"2 inputs are NaN or infinite.*example 3 of client 'b'; impute"):
        build(store=bad)
    bad = store()
    bad.inputs[5, 0] = value
    with pytest.raises(DataError, match=r"held by no client"):
        build(store=bad)
    with pytest.raises(DataError, match=r"1 targets are NaN.*example 0 of the central test set"):
        build(
            store=Examples(torch.zeros(6, 2), torch.zeros(6)),
            central=Examples(torch.zeros(1, 2), torch.tensor([value])),
            classes=None,
        )


def test_an_unknown_client_gets_the_nearest_name() -> None:
    data = build(train={"client-07": index(0)}, test={})
    with pytest.raises(DataError, match=r"did you mean 'client-07'"):
        data.train_of("client-7")
    with pytest.raises(DataError, match=r"'toy' has no client"):
        data.test_of("x")


def test_examples_must_pair_up() -> None:
    with pytest.raises(DataError, match=r"do not pair up"):
        Examples(torch.zeros(3, 1), torch.zeros(2))


def test_from_clients_keeps_every_part_and_infers_classes() -> None:
    data = FederatedData.from_clients(
        {
            "b": (np.ones((2, 3)), np.array([0, 2]), np.zeros((1, 3)), np.array([1])),
            "a": (torch.full((1, 3), 5.0), torch.tensor([[1]]), [], []),
        },
        name="mine",
        central=(np.zeros((1, 3)), np.array([3])),
    )
    assert data.clients == ("a", "b")
    assert data.classes == 4
    assert data.store.inputs.dtype == torch.float32
    assert data.train_of("b").targets.tolist() == [0, 2]
    assert data.test_of("b").inputs.tolist() == [[0.0, 0.0, 0.0]]
    assert data.train_of("a").inputs.tolist() == [[5.0, 5.0, 5.0]]
    assert data.train_of("a").targets.tolist() == [1]


def test_from_clients_reads_bytes_as_images() -> None:
    gray = np.full((2, 5, 5), 51, dtype=np.uint8)
    colour = np.zeros((2, 5, 5, 3), dtype=np.uint8)
    data = FederatedData.from_clients({"a": (gray, [0, 1])})
    assert data.input_shape == (1, 5, 5)
    assert torch.allclose(data.store.inputs, torch.tensor(0.2))
    assert FederatedData.from_clients({"a": (gray > 9, [0, 1])}).store.inputs.eq(1.0).all()
    assert FederatedData.from_clients({"a": (colour, [0, 1])}).input_shape == (3, 5, 5)
    assert FederatedData.from_clients({"a": (gray.astype(np.int32), [0, 1])}).store.inputs.dtype == torch.int64


def test_from_clients_regression_has_no_classes() -> None:
    assert FederatedData.from_clients({"a": ([[1.0]], [0.5])}).classes is None


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "has no client"),
        ({"a": ([], [])}, "has no client with an example"),
        ({"a": ([[1.0]], [0]), "b": ([], [])}, "client 'b' has no training example"),
        ({"a": ([[1.0]],)}, "client 'a' gives 1 arrays"),
        ({"a": ([[1.0]], [0, 1])}, "1 inputs but 2 targets of client 'a'"),
        ({"a": ([[1.0], [1.0, 2.0]], [0, 1])}, "inputs of client 'a' is ragged"),
        ({"a": ([["x"]], [0])}, "holds str"),
        ({"a": ([[1.0]], [-1])}, "the label -1"),
        ({"a": ([[1.0]], [0]), "b": ([[1.0, 2.0]], [0])}, r"client 'b' has inputs of shape \[2\]"),
        ({"a": ([[1.0]], [0]), "b": ([[1.0]], [0.5])}, "client 'b' has targets .*float32"),
        ({"a": (torch.tensor(1.0), torch.tensor(0))}, "single number"),
    ],
)
def test_from_clients_refusals(given: dict[str, tuple[object, ...]], sentence: str) -> None:
    with pytest.raises((DataError), match=sentence):
        FederatedData.from_clients(given, name="mine")


def test_a_client_id_that_is_no_text_is_refused():
    with pytest.raises(DataError, match="the client id 1 is not a text; write '1'"):
        FederatedData.from_clients({1: ([[0.0]], [0]), "a": ([[1.0]], [1])})
