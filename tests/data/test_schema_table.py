"""Tables of several clients under one schema: the same meaning at the same place, whatever each file looks like."""

import csv
import itertools
import random

import pytest
import torch

from headway.core.errors import ConfigError, DataError
from headway.data import load
from headway.data.sources.data_schema import schema_of
from headway.data.sources.schema_loading import load_with_schema
from headway.data.sources.schema_sample import sample_schema
from headway.data.sources.schema_table import FileForm
from headway.data.sources.tables import Reading

SCHEMA = {
    "kind": "table",
    "target": "ill",
    "classes": ["no", "yes"],
    "standardise": "none",
    "columns": [
        {"name": "age", "kind": "numeric"},
        {"name": "sex", "kind": "category", "values": ["f", "m"]},
        {"name": "grade", "kind": "category", "values": ["1", "2", "3"], "gaps": "flag"},
    ],
}
INPUTS = ("age", "sex=f", "sex=m", "grade=1", "grade=2", "grade=3", "grade missing")
ROWS = [("50", "m", "1", "no"), ("60", "f", "3", "yes"), ("70", "f", "", "no"), ("55", "m", "3", "yes")]
HEADER = ("age", "sex", "grade", "ill")


def write(path, rows, header=HEADER):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def read(path, schema=SCHEMA, form=None, share=0.0, **changes):
    made = schema_of({**schema, "test_share": share, **changes})
    return load_with_schema(path, made, "a", key=3, form=form)


def changed(name, **options):
    return {**SCHEMA, "columns": [each | options if each["name"] == name else each for each in SCHEMA["columns"]]}


@pytest.fixture
def table(tmp_path):
    return write(tmp_path / "a.csv", ROWS)


def test_features_and_classes_are_those_of_the_schema(table):
    data = read(table)
    assert data.features == INPUTS
    assert data.class_names == ("no", "yes")
    assert data.store.targets.tolist() == [0, 1, 0, 1]
    assert data.store.inputs.tolist()[:2] == [[50, 0, 1, 1, 0, 0, 0], [60, 1, 0, 0, 0, 1, 0]]
    assert data.store.inputs.tolist()[2] == [
        70,
        1,
        0,
        0,
        0,
        1,
        1,
    ]  # the gap: this client's commonest grade, and flagged
    assert data.clients == ("a",)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[1::5])
def test_the_order_of_columns_in_the_file_changes_nothing(table, tmp_path, order):
    other = write(tmp_path / "b.csv", [[row[p] for p in order] for row in ROWS], [HEADER[p] for p in order])
    assert torch.equal(read(other).store.inputs, read(table).store.inputs)
    assert torch.equal(read(other).store.targets, read(table).store.targets)


def test_a_client_that_lacks_categories_and_classes_keeps_their_places(tmp_path):
    data = read(write(tmp_path / "b.csv", [("50", "m", "3", "yes"), ("60", "m", "3", "yes")]))
    assert data.features == INPUTS
    assert data.store.inputs.tolist() == [[50, 0, 1, 0, 0, 1, 0], [60, 0, 1, 0, 0, 1, 0]]
    assert data.store.targets.tolist() == [1, 1]
    assert data.classes == 2
    assert any("no row is of the class no" in note for note in data.notes)


def test_the_number_of_inputs_does_not_depend_on_whether_a_file_has_gaps(tmp_path):
    whole = read(write(tmp_path / "b.csv", [("50", "m", "3", "yes"), ("60", "f", "1", "no")]))
    gaps = read(write(tmp_path / "c.csv", [("", "m", "3", "yes"), ("60", "", "", "no"), ("62", "f", "", "no")]))
    assert whole.features == gaps.features == INPUTS
    assert gaps.store.inputs[0].tolist() == [61, 0, 1, 0, 0, 1, 0]  # the median of this client's own
    assert any("read as gaps" in note for note in gaps.notes)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("50", "M", "1", "no"), ROWS[1]], ["'sex'", "'M' in line 2", "needs one of 'f', 'm'", "data.values.'sex'"]),
        ([*ROWS, ("50", "x", "1", "no"), ("50", "x", "1", "no")], ["'x' in line 6 and 1 more"]),
        ([ROWS[0], ("50", "m", "4", "no")], ["'4' in line 3", "needs one of '1', '2', '3'"]),
        ([ROWS[0], ("50", "m", "1", "1")], ["the target 'ill'", "'1' in line 3", "needs one of 'no', 'yes'"]),
        ([ROWS[0], ("50", "m", "1", "")], ["the target 'ill'", "missing in 1 rows, the first in line 3"]),
        ([ROWS[0], ("old", "m", "1", "no")], ["'age'", "'old' in line 3", "needs numbers"]),
        ([*ROWS, ("1e999", "m", "1", "no")], ["infinite", "line 6"]),
    ],
)
def test_what_the_schema_does_not_have_is_refused_with_its_line_and_both_sides(tmp_path, rows, expected):
    with pytest.raises(DataError) as error:
        read(write(tmp_path / "b.csv", rows))
    for part in expected:
        assert part in str(error.value)


def test_rules_of_the_schema_read_other_spellings_and_unknown_values(tmp_path):
    path = write(tmp_path / "b.csv", [("50", "male", "9", "no"), ("60", "f", "1", "ill"), ("61", "m", "2", "yes")])
    rules = changed("sex", aliases=[{"written": "male", "read_as": "m"}])
    rules["class_aliases"] = [{"written": "ill", "read_as": "yes"}]
    gap = {"unknown": "gap"}
    for option, place in (gap, [1, 0, 0, 1]), ({"other": "2"}, [0, 1, 0, 0]):
        made = {**rules, "columns": [c | (option if c["name"] == "grade" else {}) for c in rules["columns"]]}
        data = read(path, made)
        assert data.store.inputs[0, 1:].tolist() == [0, 1, *place]
        assert data.store.targets.tolist() == [0, 1, 1]
        assert any("1 rows hold none of the schema's values" in note for note in data.notes)


def test_a_client_may_state_its_own_names_of_columns_and_values(tmp_path):
    path = write(
        tmp_path / "b.csv", [("50", "1", "3", "0"), ("60", "2", "1", "1")], ("Alter", "geschl", "grade", "krank")
    )
    names = {"age": "Alter", "sex": "geschl", "ill": "krank"}
    form = FileForm(columns=names, values={"sex": {"1": "m", "2": "f"}, "ill": {"0": "no", "1": "yes"}})
    data = read(path, form=form)
    assert data.store.inputs[:, :3].tolist() == [[50, 0, 1], [60, 1, 0]]
    assert data.store.targets.tolist() == [0, 1]
    with pytest.raises(DataError, match="read as 'w'"):
        read(path, form=FileForm(columns=names, values={"sex": {"1": "m", "2": "w"}}))
    with pytest.raises(DataError, match=r"'agee', which the schema does not have .did you mean 'age'"):
        read(path, form=FileForm(columns={"agee": "Alter"}))
    with pytest.raises(DataError, match="two columns of the schema are 'sex' in the file"):
        read(path, form=FileForm(columns={"age": "sex"}))


def test_numbers_that_are_the_same_are_one_value_and_it_is_noted(tmp_path):
    path = write(tmp_path / "b.csv", [("50", "m", "1.0", "no"), ("60", "f", "3.0", "yes")])
    data = read(path)
    assert data.store.inputs[:, 3:].tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]
    assert any("'1.0' as '1'" in note for note in data.notes)
    codes = changed("grade", values=["01", "1"])
    exact = read(write(tmp_path / "c.csv", [("50", "m", "01", "no"), ("60", "f", "1", "yes")]), codes)
    assert exact.store.inputs[:, 3:5].tolist() == [[1, 0], [0, 1]]
    with pytest.raises(DataError, match=r"'1\.0' in line 2"):  # which of the two it is cannot be known
        read(path, codes)


def test_letters_with_marks_are_the_same_in_both_forms_of_unicode(tmp_path):
    one, two = "gr\u00f6\u00dfe", "gro\u0308\u00dfe"
    assert one != two
    schema = {**SCHEMA, "columns": [{"name": one, "kind": "category", "values": [one, "m"]}]}
    for name in (one, two):
        data = read(write(tmp_path / "b.csv", [(name, "no"), ("m", "yes")], (name, "ill")), schema)
        assert data.store.inputs.tolist() == [[1, 0], [0, 1]]


def test_large_codes_of_a_parquet_file_stay_apart(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="needs headway[parquet]")
    import pyarrow.parquet as pq

    codes = [9007199254740992, 9007199254740993]
    schema = {**SCHEMA, "columns": [{"name": "code", "kind": "category", "values": [str(code) for code in codes]}]}
    pq.write_table(pa.table({"code": codes, "ill": ["no", "yes"]}), tmp_path / "b.parquet")
    assert read(tmp_path / "b.parquet", schema).store.inputs.tolist() == [[1, 0], [0, 1]]
    one = [{"name": "code", "kind": "category", "values": [str(codes[0])]}]
    with pytest.raises(DataError, match="'9007199254740993' in row 2"):
        read(tmp_path / "b.parquet", {**schema, "columns": one})


def test_missing_columns_are_all_named_and_others_are_left_out(tmp_path):
    with pytest.raises(DataError, match=r"has no column 'sex', 'grade', which the schema .* .found: age, ill, more"):
        read(write(tmp_path / "b.csv", [("1", "no", "x"), ("2", "yes", "y")], ("age", "ill", "more")))
    with pytest.raises(DataError, match=r"no column 'sex', .*did you mean 'Sex'"):
        read(write(tmp_path / "c.csv", ROWS, ("age", "Sex", "grade", "ill")))
    extra = read(write(tmp_path / "d.csv", [(*row, "z,1") for row in ROWS], (*HEADER, "ward")))
    assert extra.features == INPUTS
    assert any("left out: ward" in note for note in extra.notes)


@pytest.mark.parametrize(
    ("limit", "what"), [({"maximum": 65}, "70 in line 4, above"), ({"minimum": 55}, "50 in line 2, below")]
)
def test_numbers_outside_the_range_of_the_schema_are_refused(table, limit, what):
    with pytest.raises(DataError, match=what):
        read(table, changed("age", **limit, unit="years"))


def test_gaps_are_refused_where_the_schema_says_so(table):
    with pytest.raises(DataError, match="'grade' has 1 gaps, the first in line 4"):
        read(table, changed("grade", gaps="refuse"))


def test_agreed_numbers_scale_a_column_or_the_clients_own_do(table):
    agreed = read(table, changed("age", centre=50, scale=10)).store.inputs[:, 0]
    assert agreed.tolist() == [0, 1, 2, 0.5]
    own = read(table, standardise="client").store.inputs[:, 0]
    assert own.mean().abs() < 1e-6
    assert own.std(correction=0).item() == pytest.approx(1)


def test_a_regression_needs_numbers(tmp_path):
    regression = {**SCHEMA, "classes": []}
    with pytest.raises(DataError, match="the target 'ill' holds 'no' in line 2 and in 3 more cells"):
        read(write(tmp_path / "b.csv", ROWS), regression)
    data = read(write(tmp_path / "c.csv", [(*row[:3], "1.5") for row in ROWS]), regression)
    assert data.classes is None
    assert data.store.targets.dtype == torch.float32


def test_rows_of_a_group_stay_together(tmp_path):
    rows = [(*ROWS[number % 4], f"p{number // 4}") for number in range(40)]
    data = read(write(tmp_path / "b.csv", rows, (*HEADER, "patient")), group="patient", share=0.3)
    assert 0 < len(data.test["a"]) < 40
    sides = [{rows[place][4] for place in held["a"].tolist()} for held in (data.train, data.test)]
    assert not sides[0] & sides[1]


def test_files_apart_hold_what_one_file_with_a_column_of_clients_gives_in_a_simulation(tmp_path):
    draw = random.Random(5)
    rows = [
        (
            draw.choice(["", f"{draw.gauss(50, 9):.1f}"]) if place % 7 == 0 else f"{draw.gauss(50, 9):.1f}",
            draw.choice("fm"),
            draw.choice(["1", "2", "3", ""]),
            draw.choice(["no", "yes"]),
            draw.choice(["north", "south", "west"]),
        )
        for place in range(120)
    ]
    whole = write(tmp_path / "all.csv", rows, (*HEADER, "site"))
    simulated = load(whole, key=3, target="ill", client_column="site", categories=["grade"], standardise="client")
    schema, _ = sample_schema([whole], "ill", how=Reading(categories=("grade",), skip=("site",)))
    assert simulated.features == schema.features
    for client in simulated.clients:
        own = [row for row in rows if row[4] == client]
        draw.shuffle(order := list(range(4)))
        part = [[row[p] for p in order] for row in own]
        path = write(tmp_path / f"{client}.csv", part, [HEADER[p] for p in order])
        data = load_with_schema(path, schema, client, key=3)
        for mine, theirs in (
            (data.train_of(client), simulated.train_of(client)),
            (data.test_of(client), simulated.test_of(client)),
        ):
            assert torch.equal(mine.inputs, theirs.inputs)
            assert torch.equal(mine.targets, theirs.targets)


def test_a_parquet_file_is_read_as_the_same_table(table, tmp_path):
    pa = pytest.importorskip("pyarrow", reason="needs headway[parquet]")
    import pyarrow.parquet as pq

    columns = {
        "ill": ["no", "yes", "no", "yes"],
        "grade": pa.array([1.0, 3.0, None, 3.0]),
        "age": ["50", "60", "70", "55"],
        "sex": ["m", "f", "f", "m"],
    }
    pq.write_table(pa.table(columns), tmp_path / "b.parquet")
    assert torch.equal(read(tmp_path / "b.parquet").store.inputs, read(table).store.inputs)
    pq.write_table(pa.table({**columns, "sex": ["m", "f", "f", "w"]}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match="'w' in row 4"):
        read(tmp_path / "c.parquet")


def test_a_file_of_another_kind_than_the_schema_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"is of tables .* suffix '.npz'"):
        read(tmp_path / "b.npz")


def test_a_file_with_decimal_commas_semicolons_and_an_old_encoding_is_the_same_table(tmp_path):
    header = ("größe", "sex", "ill")
    rows = [("1.5", "m", "no"), ("1.25", "f", "yes"), ("", "f", "no")]
    schema = {**SCHEMA, "columns": [{"name": "größe", "kind": "numeric"}, SCHEMA["columns"][1]]}
    expected = read(write(tmp_path / "a.csv", rows, header), schema).store.inputs
    lines = [";".join(header), *(";".join(cell.replace(".", ",") for cell in row) for row in rows)]
    (tmp_path / "b.csv").write_bytes("\r\n".join(lines).encode("cp1252"))
    data = read(tmp_path / "b.csv", schema)
    assert torch.equal(data.store.inputs, expected)
    assert any("decimal comma" in note for note in data.notes)
    assert any("Windows-1252" in note for note in data.notes)
    with pytest.raises(DataError, match=r"'größe' holds '1,5' in line 2"):
        read(tmp_path / "b.csv", schema, form=FileForm(decimal="."))
