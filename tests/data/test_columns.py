"""Client ids, row counters, gaps and categories of tables: what a column is, and what is said of it."""

import csv

import numpy as np
import pytest
from mk import blobs

from headway.core.errors import DataError
from headway.data import load
from headway.data.dataset.owners import near_equal
from headway.data.sources.columns import counts_rows, deciding
from headway.data.sources.table_fields import Field


def write(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(header)
        out.writerows(rows)
    return path


def ids_of(tmp_path, ids, **options):
    x, y = blobs(n=20 * len(ids), d=2)
    rows = ([ids[i % len(ids)], *x[i], "abcd"[y[i]]] for i in range(len(y)))
    return load(write(tmp_path / "t.csv", ["site", "f", "g", "y"], rows), target="y", client_column="site", **options)


def test_client_ids_that_are_one_number_stay_seven_clients(tmp_path):
    names = ["007", "7", "07", "7.0", " 7", "1e3", "1000"]
    data = ids_of(tmp_path, names)
    assert sorted(data.clients) == sorted(names)
    assert any("' 7', '007', '07', '7', '7.0'; '1000', '1e3'" in note for note in data.notes)


def test_client_ids_are_kept_as_written(tmp_path):
    odd = ["North", "north", "North ", "<b>Süd</b>", "a/b", "名古屋", 'q"uote', "new\nline", "-1", "nan", "NA", "None"]
    data = ids_of(tmp_path, odd)
    assert sorted(data.clients) == sorted(odd)
    assert any("'North', 'North ', 'north'" in note for note in data.notes)
    assert not ids_of(tmp_path, ["a", "b", "12", "13"]).notes
    with pytest.raises(DataError, match="'site' is empty in 20 rows"):
        ids_of(tmp_path, ["a", "  "])


@pytest.mark.parametrize(
    "numbers",
    [
        np.arange(40),
        np.arange(1, 41),
        np.arange(40)[::-1],
        np.random.default_rng(0).permutation(40),
        np.arange(60) * 2 // 1,
    ],
    ids=["from 0", "from 1", "backwards", "shuffled", "with holes"],
)
@pytest.mark.parametrize("name", ["", "Unnamed: 0", "age"])
def test_a_column_that_counts_rows_is_left_out_whatever_its_name(tmp_path, numbers, name):
    n = len(numbers)
    r = np.random.default_rng(1)
    rows = [[numbers[i], "wx"[i % 2], r.normal(), i * 2 // n] for i in range(n)]
    path = write(tmp_path / "t.csv", [name, "site", "a", "y"], rows)
    data = load(path, target="y", client_column="site")
    assert data.features == ("a",)
    assert any(f"left out, as it counts rows: {name!r}" in note for note in data.notes)
    assert load(path, target="y", client_column="site", keep=[name]).features == (name, "a")


def test_what_counts_rows_and_what_does_not():
    within = Field("t", np.tile(np.arange(25.0), 3))
    assert counts_rows(within, ["a"] * 25 + ["b"] * 25 + ["c"] * 25)
    assert not counts_rows(within)
    assert not counts_rows(Field("hour", np.tile(np.arange(24.0), 10)), ["a"] * 120 + ["b"] * 120)
    r = np.random.default_rng(0)
    for numbers in (r.integers(18, 90, 200), r.integers(0, 10**6, 200), r.normal(size=200), np.arange(5)):
        assert not counts_rows(Field("v", numbers.astype(float)))


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("patient", [f"P-{i:03d}" for i in range(60)]),
        ("every tenth", [10 * i for i in range(60)]),
        ("Unnamed: 0", [7 * i * i for i in range(60)]),
        ("index", list(range(100, 160))),
    ],
)
def test_other_forms_of_a_row_number(tmp_path, name, texts):
    rows = [[texts[i], "wx"[i % 2], i * 7 % 5, i // 30] for i in range(60)]
    data = load(write(tmp_path / "t.csv", [name, "site", "a", "y"], rows), target="y", client_column="site")
    assert data.features == ("a",)
    assert any(f"left out, as it counts rows: {name!r}" in note for note in data.notes)


def test_long_ids_that_differ_in_the_last_digit_are_not_pointed_out():
    assert near_equal(["123456789012345678901", "123456789012345678902", "1e999999"]) == []
    assert near_equal(["10", "1e1", "10.0", "0010"]) == [("0010", "10", "10.0", "1e1")]


def test_a_feature_that_alone_decides_the_target_is_mentioned(tmp_path):
    r = np.random.default_rng(0)
    y = r.integers(0, 2, 300)
    rows = [["ab"[i % 2], r.normal(), y[i] + 0.1 * r.random(), ["no", "yes"][y[i]], y[i]] for i in range(300)]
    data = load(write(tmp_path / "t.csv", ["s", "noise", "leak", "word", "y"], rows), target="y", client_column="s")
    assert any("alone nearly decides the target: 'leak', 'word'" in note for note in data.notes)
    value = r.normal(size=300)
    fields = [Field("same", 3 * value + 1), Field("noisy", value + r.normal(size=300))]
    assert deciding(fields, value, None) == ["same"]


def test_words_that_may_be_values_are_said_and_can_be_values(tmp_path):
    r = np.random.default_rng(0)
    rows = [[["EU", "NA", "AP"][i % 3], ["None", "Some"][r.integers(2)], "?123"[r.integers(4)], ["None", "Bad"][i % 2]]
            for i in range(120)]  # fmt: skip
    path = write(tmp_path / "na.csv", ["region", "drinks", "score", "finding"], rows)
    with pytest.raises(DataError, match=r"'finding' is missing in 60 rows .*'None'.* data.gaps = \['', '\?'\]"):
        load(path, target="finding", client_column="region")
    data = load(path, target="finding", client_column="region", gaps=["", "?"])
    assert data.clients == ("AP", "EU", "NA")
    assert data.class_names == ("Bad", "None")
    assert data.features == ("drinks=None", "drinks=Some", "score", "score missing")
    noted = load(
        path, target="region", drop=["finding"], gaps=["", "?", "none"], partition={"kind": "iid"}, clients=2
    ).notes
    assert any("'drinks' " in note and "'score' " in note and "read as gaps" in note for note in noted)
    assert any(
        "'None' in 'drinks'" in note and "if that is a value, set data.gaps = ['', '?']" in note for note in noted
    )


def test_init_prints_gaps_column_by_column_and_takes_options(headway, tmp_path):
    rows = [["ab"[i % 2], ["None", "x", "y"][i % 3], i % 7 if i % 5 else "?", i % 4 // 2] for i in range(80)]
    write(tmp_path / "t.csv", ["s", "word", "n", "y"], rows)
    code, out, _ = headway("init", "--data", "t.csv", "--client-column", "s")
    assert code == 0
    assert "read as gaps, and filled in by each client: 'word' 27 'None', 'n' 16 '?'" in out
    given = ["--gaps", "", "--gaps", "?", "--drop", "n", "--categories", "y", "--force"]
    code, out, err = headway("init", "--data", "t.csv", "--client-column", "s", *given)
    assert (code, err) == (0, "")
    assert "read as gaps" not in out
    text = (tmp_path / "run.toml").read_text()
    assert 'gaps = ["", "?"]' in text
    assert 'drop = ["n"]' in text
    assert headway("run", "run.toml", "--rounds", "1")[0] == 0


def test_init_names_every_cell_that_is_no_number(headway, tmp_path):
    rows = [["ab"[i % 2], "4O" if i == 17 else i % 9, "x" if i == 30 else i % 5, i % 2] for i in range(60)]
    write(tmp_path / "t.csv", ["s", "age", "dose", "y"], rows)
    code, _, err = headway("init", "--data", "t.csv", "--client-column", "s")
    assert code == 1
    assert "'age': '4O' in line 19" in err
    assert "'dose': 'x' in line 32" in err
    assert not (tmp_path / "run.toml").exists()


def test_whole_numbers_of_a_target_are_classes_or_quantities_and_the_other_is_said(tmp_path):
    r = np.random.default_rng(0)
    rows = [["ab"[i % 2], r.normal(), 1000 + i % 30] for i in range(300)]
    path = write(tmp_path / "t.csv", ["s", "v", "product"], rows)
    data = load(path, target="product", client_column="s")
    assert data.classes is None
    assert any("if they are codes of classes, set data.task = 'classification'" in note for note in data.notes)
    data = load(path, target="product", client_column="s", task="classification")
    assert data.class_names == tuple(map(str, range(1000, 1030)))
    assert not data.notes
