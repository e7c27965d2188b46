"""Parquet as pandas and others write it: categories, dates, lists, nulls and index columns."""

import datetime as dt

import numpy as np
import pytest

from headway.core.errors import DataError
from headway.data import load

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
N = 200
r = np.random.default_rng(0)
Y = r.random(N) > 0.5
COLUMNS = {
    "site": pa.array([f"s{i % 4}" for i in range(N)]).dictionary_encode(),
    "half": pa.array(r.normal(size=N).astype("float16")),
    "y": pa.array(Y),
    "ward": pa.array(r.integers(1, 12, N)).dictionary_encode(),
    "flag": pa.array([bool(v > 0.5) for v in r.random(N)]).dictionary_encode(),
    "kind": pa.array(["p", "q"] * (N // 2), pa.large_string()).dictionary_encode(),
    "smokes": pa.array([None if v > 0.9 else bool(v > 0.5) for v in r.random(N)]),
    "void": pa.nulls(N),
    "empty": pa.array([None] * N, pa.string()),
    "__index_level_0__": pa.array([f"row {i}" for i in range(N)]),
    "seen": pa.array([dt.datetime(2024, 1, 1)] * N),
    "day": pa.array([dt.date(2024, 1, 1 + i % 28) for i in range(N)]),
    "at": pa.array([dt.time(i % 24) for i in range(N)]),
    "tags": pa.array([["a", "b"]] * N),
    "both": pa.array([{"a": 1}] * N),
    "raw": pa.array([b"x"] * N),
}


def table(path, *names):
    pq.write_table(pa.table({name: COLUMNS[name] for name in ("site", "half", "y", *names)}), path)
    return path


def test_dictionaries_are_categories_whatever_their_values(tmp_path):
    data = load(table(tmp_path / "t.parquet", "ward", "flag", "kind"), target="y", client_column="site")
    wards = tuple(f"ward={k}" for k in range(1, 12))
    assert data.features == ("half", *wards, "flag=False", "flag=True", "kind=p", "kind=q")
    assert data.clients == ("s0", "s1", "s2", "s3")
    assert data.class_names == ("False", "True")
    plain = pa.table({"s": COLUMNS["site"], "ward": pa.array([i % 3 for i in range(N)]), "y": COLUMNS["y"]})
    pq.write_table(plain, tmp_path / "p.parquet")
    assert load(tmp_path / "p.parquet", target="y", client_column="s").features == ("ward",)
    named = load(tmp_path / "p.parquet", target="y", client_column="s", categories=["ward"])
    assert named.features == ("ward=0", "ward=1", "ward=2")


def test_clients_that_are_whole_numbers_keep_every_digit(tmp_path):
    ids = [2**60, 2**60 + 1]
    columns = {"s": pa.array([ids[i % 2] for i in range(N)]), "v": COLUMNS["half"], "y": COLUMNS["y"]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert load(tmp_path / "t.parquet", target="y", client_column="s").clients == tuple(map(str, ids))


def test_text_that_holds_numbers_or_words_of_gaps_is_said(tmp_path):
    words = pa.array([["1.5", "2.5", "NA"][i % 3] for i in range(N)])
    numbers = pa.array([["1.5", "2.5"][i % 2] for i in range(N)])
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"s": COLUMNS["site"], "w": words, "v": numbers, "y": COLUMNS["y"]}), path)
    notes = load(path, target="y", client_column="s").notes
    assert any("text that holds numbers, read as categories: 'v'" in note for note in notes)
    assert any("read as values, and not as gaps: 'NA' in 'w'" in note for note in notes)
    data = load(path, target="y", client_column="s", gaps=["NA"], categories=["v", "w"])
    assert data.features == ("w=1.5", "w=2.5", "w missing", "v=1.5", "v=2.5")
    assert not any("text that" in note or "read as values" in note for note in data.notes)


def test_a_client_that_is_not_a_number_is_missing(tmp_path):
    ids = pa.array([float("nan") if i == 3 else float(i % 2) for i in range(N)])
    pq.write_table(pa.table({"s": ids, "v": COLUMNS["half"], "y": COLUMNS["y"]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="'s' is empty in 1 rows"):
        load(tmp_path / "t.parquet", target="y", client_column="s")


def test_columns_of_nothing_and_of_pandas_index_are_left_out(tmp_path):
    path = table(tmp_path / "t.parquet", "void", "empty", "__index_level_0__", "smokes")
    data = load(path, target="y", client_column="site")
    assert data.features == ("half", "smokes=False", "smokes=True", "smokes missing")
    assert any("counts rows: '__index_level_0__'" in note for note in data.notes)
    assert any("holds nothing: 'void', 'empty'" in note for note in data.notes)


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("seen", "such as days since a start"),
        ("day", "such as days since a start"),
        ("at", "such as hours"),
        ("tags", "each place of the list a column"),
        ("both", "each part a column"),
        ("raw", "convert it"),
    ],
)
def test_types_that_are_no_feature_are_refused_with_what_to_make_of_them(tmp_path, name, cure):
    path = table(tmp_path / "t.parquet", name)
    with pytest.raises(DataError, match=rf"column '{name}' has the type .*{cure}.*drop = \['{name}'\]"):
        load(path, target="y", client_column="site")
    assert load(path, target="y", client_column="site", drop=[name]).features == ("half",)


def test_init_leaves_out_what_cannot_be_used_and_the_file_runs(headway, tmp_path):
    table(tmp_path / "t.parquet", *COLUMNS.keys() - {"site", "half", "y"})
    code, out, err = headway("init", "--data", "t.parquet", "--client-column", "site", "--target", "y")
    assert (code, err) == (0, "")
    for name in ("seen", "day", "at", "tags", "both", "raw", "void", "empty", "__index_level_0__"):
        assert f"'{name}', which" in out
    assert headway("run", "run.toml", "--rounds", "1")[0] == 0
