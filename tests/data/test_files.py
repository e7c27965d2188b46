"""A user's own files: what is read from them, and one sentence for everything that can be wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from headway.core.errors import ConfigError, DataError
from headway.data import FederatedData, infer_csv, load
from headway.numerics.keys import Key

KEY = Key.root(4)
IID = {"kind": "iid"}
TABLE = """site,age,smoker,dose,outcome
north,30,yes,1.5,sick
north,40,no,NA,well
north,50,no,2.5,well
south,60,,3.5,sick
south,70,yes,4.5,well
"""


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str = TABLE, name: str = "clinic.csv") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Path]:
    def write(**arrays: object) -> Path:
        path = tmp_path / "mine.npz"
        np.savez(path, **arrays)  # type: ignore[arg-type]
        return path

    return write


def clinic(path: Path, **options: object) -> FederatedData:
    given: dict[str, object] = {"target": "outcome", "client_column": "site", "test_share": 0.0}
    return load(path, key=KEY, **(given | options))  # type: ignore[arg-type]


def test_csv_features_by_hand(table: Callable[..., Path]) -> None:
    data = clinic(table())
    assert data.name == "clinic"
    assert data.clients == ("north", "south")
    assert data.features == ("age", "smoker=no", "smoker=yes", "smoker missing", "dose", "dose missing")
    assert data.store.inputs.tolist() == [
        [30.0, 0, 1, 0, 1.5, 0],
        [40.0, 1, 0, 0, 2.0, 1],
        [50.0, 1, 0, 0, 2.5, 0],
        [60.0, 0, 1, 1, 3.5, 0],
        [70.0, 0, 1, 0, 4.5, 0],
    ]
    assert data.store.targets.tolist() == [0, 1, 1, 0, 1]
    assert data.classes == 2
    assert "sick, well" in data.description


def test_csv_standardised_by_client(table: Callable[..., Path]) -> None:
    data = clinic(table(), standardise="client")
    ages = data.store.inputs[:, 0]
    assert ages.tolist() == pytest.approx([-(1.5**0.5), 0.0, 1.5**0.5, -1.0, 1.0])


def test_other_sites_and_test_rows_do_not_move_a_site(table: Callable[..., Path]) -> None:
    before = clinic(table(), standardise="client")
    after = clinic(table(TABLE.replace("south,60,", "south,900,")), standardise="client")
    assert torch.equal(before.train_of("north").inputs, after.train_of("north").inputs)
    assert not torch.equal(before.train_of("south").inputs, after.train_of("south").inputs)
    rows = "".join(f"a,{3 * value},{value % 2}\n" for value in range(20))
    first = load(table("s,v,y\n" + rows), key=KEY, target="y", client_column="s", standardise="client")
    tested = int(first.test["a"][0])
    changed = table("s,v,y\n" + rows.replace(f"a,{3 * tested},", "a,1e6,"))
    second = load(changed, key=KEY, target="y", client_column="s", standardise="client")
    assert torch.equal(first.train_of("a").inputs, second.train_of("a").inputs)


def test_clients_are_named_as_the_file_names_them(table: Callable[..., Path]) -> None:
    path = table("who,v,y\n10,1,0\n9,2,1\n10,3,1\n")
    assert load(path, key=KEY, target="y", client_column="who").clients == ("10", "9")


def test_csv_without_clients_is_partitioned_and_columns_can_be_dropped(table: Callable[..., Path]) -> None:
    data = load(table(), key=KEY, target="age", drop=["outcome", "site"], partition=IID, clients=2, task="regression")
    assert data.clients == ("client-0", "client-1")
    assert data.features[0] == "smoker=no"


def test_regression_targets_are_float(table: Callable[..., Path]) -> None:
    data = clinic(table(), target="age")
    assert data.classes == 5  # few whole numbers look like classes
    data = clinic(table(), target="age", task="regression")
    assert data.classes is None
    assert data.store.targets.tolist() == [30.0, 40.0, 50.0, 60.0, 70.0]


def test_parquet_reads_as_its_csv(table: Callable[..., Path], tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    columns = {
        "site": ["north"] * 3 + ["south"] * 2,
        "age": [30, 40, 50, 60, 70],
        "smoker": pa.array(["yes", "no", "no", None, "yes"]).dictionary_encode(),
        "dose": [1.5, None, 2.5, 3.5, 4.5],
        "outcome": ["sick", "well", "well", "sick", "well"],
    }
    path = tmp_path / "clinic.parquet"
    parquet.write_table(pa.table(columns), path)
    assert clinic(path).fingerprint() == clinic(table()).fingerprint()
    parquet.write_table(pa.table(columns | {"when": pa.array([0] * 5, pa.timestamp("s"))}), path)
    with pytest.raises(DataError, match=r"column 'when' has the type timestamp"):
        clinic(path)
    assert clinic(path, drop=["when"]).fingerprint() == clinic(table()).fingerprint()
    path.write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"not a readable Parquet file"):
        clinic(path)


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        (TABLE, {"target": "outcom"}, "has no column 'outcom' .did you mean 'outcome'"),
        (TABLE, {"client_column": "sites"}, "has no column 'sites' .did you mean 'site'"),
        (TABLE, {"drop": ["ages"]}, "has no column 'ages' .did you mean 'age'"),
        (TABLE, {"task": "regression"}, "the target 'outcome' is text, but regression needs numbers"),
        (TABLE, {"target": "dose"}, "the target 'dose' is missing in 1 rows"),
        (TABLE, {"client_column": "smoker"}, "client column 'smoker' is empty in 1 rows"),
        (
            "s,v,y\na,1,0\na,2,0\n",
            {"target": "y", "client_column": "s"},
            "'y' is '0' in every row; 2 classes",
        ),
        ("s,y\na,0\na,1\n", {"target": "y", "client_column": "s"}, "has no feature column beside 'y'"),
        ("", {}, "is empty; a header line"),
        ("site,age,outcome\n", {}, "has 0 rows of data, but at least 2"),
        ("site,age,outcome\na,1,0\n", {}, "has 1 row of data, but at least 2"),
        ("site,age,age\na,1,0\n", {}, "has the column 'age' twice"),
        ("site,age,outcome\na,1\n", {}, "line 2, has 2 values, but the header names 3"),
        (
            "s,v,y\na,inf,0\na,2,1\n",
            {"target": "y", "client_column": "s"},
            "'v' is numeric, but 'inf' in line 2 is infinite",
        ),
        (
            "s,t,y\n" + "".join(f"a,w{n * n},{n % 2}\n" for n in range(101)),
            {"target": "y", "client_column": "s"},
            "text column 't' has 101 distinct values",
        ),
    ],
)
def test_table_refusals(table: Callable[..., Path], text: str, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        clinic(table(text), **options)


def test_table_options_are_checked(table: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"standardise is 'pooled', which is unknown .known: client"):
        clinic(table(), standardise="pooled")
    with pytest.raises(ConfigError, match=r"task is 'regresion', which is unknown .did you mean 'regression'"):
        clinic(table(), task="regresion")


def test_unreadable_files(tmp_path: Path) -> None:
    for name in ("none.csv", "none.npz", "none.parquet"):
        with pytest.raises(DataError, match=rf"there is no file .*{name}"):
            load(tmp_path / name, key=KEY, **({} if name.endswith("npz") else {"target": "y"}))  # type: ignore[arg-type]
    bad = tmp_path / "bad.csv"
    bad.write_bytes(b"a,b\n\x81\x8d,1\n")
    with pytest.raises(DataError, match=r"not a readable CSV file in UTF-8"):
        load(bad, key=KEY, target="a")
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(DataError, match=r"not a readable .npz file"):
        load(bad, key=KEY)
    with bad.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match=r"not a readable .npz file"):
        load(bad, key=KEY)


def test_infer_csv(table: Callable[..., Path]) -> None:
    facts = infer_csv(table(), "site")
    assert (facts.rows, facts.clients, facts.target, facts.task, facts.classes) == (
        5,
        2,
        "outcome",
        "classification",
        2,
    )
    assert facts.columns == {
        "site": "text",
        "age": "integer",
        "smoker": "text",
        "dose": "number",
        "outcome": "text",
    }
    assert facts.gaps == {"site": 0, "age": 0, "smoker": 1, "dose": 1, "outcome": 0}
    other = infer_csv(table(), None, target="dose")
    assert (other.clients, other.task, other.classes) == (None, "regression", None)
    assert infer_csv(table("y,s,v\n1,a,2\n0,b,3\n"), "s").target == "y"
    assert infer_csv(table("u,s,v\n1,a,2.5\n0,b,3\n"), "s").target == "v"
    with pytest.raises(DataError, match=r"did you mean 'site'"):
        infer_csv(table(), "sit")
    with pytest.raises(DataError, match=r"no column beside 's'; a target is needed"):
        infer_csv(table("s\na\nb\n"), "s")


def test_npz_with_clients(archive: Callable[..., Path]) -> None:
    images = np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4)
    path = archive(x=images, y=np.array([0, 1, 2, 0, 1, 2]), client=np.array([3, 3, 3, 10, 10, 10]))
    data = load(path, key=KEY)
    assert data.name == "mine"
    assert data.clients == ("client-03", "client-10")
    assert data.input_shape == (1, 4, 4)
    assert data.classes == 3
    assert np.allclose(data.store.inputs[:, 0].numpy() * 255, images, atol=1e-4)


def test_npz_train_and_test(archive: Callable[..., Path]) -> None:
    parts = {
        "x_train": np.zeros((4, 2)),
        "y_train": np.array([0, 1, 0, 1]),
        "x_test": np.ones((2, 2)),
        "y_test": np.array([0, 2]),
    }
    data = load(archive(**parts), key=KEY, partition=IID, clients=2)
    assert data.central is not None
    assert len(data.central) == 2
    assert data.classes == 3
    owned = load(archive(**parts, client_train=np.array(["a", "a", "b", "b"])), key=KEY)
    assert owned.clients == ("a", "b")
    assert owned.central is not None
    ids = {"client_train": np.array(["a", "a", "b", "b"]), "client_test": np.array(["b", "b"])}
    tested = load(archive(**parts, **ids), key=KEY)
    assert tested.central is None
    assert len(tested.test_of("b")) == 2
    assert tested.test_of("b").inputs.eq(1).all()
    assert len(tested.train_of("a")) == 2
    assert len(tested.test_of("a")) == 0


def test_npz_clients_named_by_another_array(archive: Callable[..., Path]) -> None:
    x, y, writer = np.zeros((6, 2)), np.array([0, 1] * 3), np.array([4, 4, 4, 9, 9, 9])
    data = load(archive(x=x, y=y, writer=writer, client=np.zeros(6, dtype=int)), client_column="writer", test_share=0)
    assert data.clients == ("client-4", "client-9")
    assert data.train["client-9"].tolist() == [3, 4, 5]
    path = archive(x_train=x, y_train=y, x_test=x, y_test=y, w_train=writer, w_test=writer[::-1])
    data = load(path, client_column="w")
    assert data.central is None
    assert data.test["client-9"].tolist() == [6, 7, 8]
    with pytest.raises(DataError, match=r"no array 'writers_train' .*, which is to name the clients"):
        load(path, client_column="writers")
    with pytest.raises(ConfigError, match=r"option 'client_column' of .* is 3, but text"):
        load(path, client_column=3)


def test_npz_regression_has_no_classes(archive: Callable[..., Path]) -> None:
    data = load(archive(x=np.zeros((4, 2)), y=np.zeros(4)), key=KEY, partition=IID, clients=2)
    assert data.classes is None
    assert data.store.targets.dtype == torch.float32


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": np.zeros((2, 1))}, "has no array 'y' .* it needs 'x' and 'y', or 'x_train'"),
        ({"X": np.zeros((2, 1)), "y": np.zeros(2)}, "has no array 'x_train'"),
        ({"x": np.zeros((2, 1)), "y": np.zeros(3)}, "'x' has 2 examples, but 'y' has 3"),
        ({"x": np.zeros((0, 1)), "y": np.zeros(0)}, "'x' is empty"),
        ({"x": np.array([{}, {}]), "y": np.zeros(2)}, "holds Python objects in 'x', which are never loaded"),
        ({"x": np.array(["a", "b"]), "y": np.zeros(2)}, "'x' holds str32 values"),
        ({"x": np.zeros((2, 1)), "y": np.array([0, -1])}, "the label -1"),
        (
            {"x": np.zeros((2, 1)), "y": np.zeros(2), "client": np.zeros(1, dtype=int)},
            "names 1 clients for 2",
        ),
        (
            {"x": np.zeros((2, 1)), "y": np.zeros(2), "client": np.zeros(2)},
            "'client' must hold one whole number",
        ),
        (
            {"x": np.zeros((2, 1)), "y": np.zeros(2), "client": np.array([0, -1])},
            "holds -1, but client numbers",
        ),
        (
            {"x": np.zeros((2, 1)), "y": np.zeros(2), "client": np.array(["a", ""])},
            "'client' is empty in 1 of 2",
        ),
        (
            {
                "x_train": np.zeros((2, 1)),
                "y_train": np.zeros(2),
                "x_test": np.zeros((2, 3)),
                "y_test": np.zeros(2),
            },
            r"'x_test' holds examples of shape \[3\] and .*, but 'x_train' of \[1\]",
        ),
        (
            {
                "x_train": np.zeros((2, 1)),
                "y_train": np.array([0, 1]),
                "x_test": np.zeros((2, 1)),
                "y_test": np.zeros(2),
            },
            r"'y_test' holds targets of shape \[\] and torch.float32, but .*'y_train' of \[\] and torch.int64",
        ),
    ],
)
def test_npz_refusals(archive: Callable[..., Path], arrays: dict[str, object], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        load(archive(**arrays), key=KEY, partition=IID, clients=1)
