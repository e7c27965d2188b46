"""Schemas: what they state, and what they cannot."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from headway.cli.schema_command import schema_text
from headway.core.errors import ConfigError
from headway.data.sources.data_schema import schema_fingerprint, schema_of
from headway.data.sources.schema_loading import load_with_schema
from headway.federation.agent.agent_data import AgentData
from headway.federation.agent.agent_file import AgentFile

AGE = {"name": "age", "kind": "numeric"}
SEX = {"name": "sex", "kind": "category", "values": ["f", "m"]}
TABLE = {"kind": "table", "target": "ill", "classes": ["no", "yes"], "columns": [AGE, SEX]}
WHOLE = {
    **TABLE,
    "group": "patient",
    "split": "group",
    "standardise": "none",
    "missing": ["", "-9"],
    "test_share": 0.25,
    "class_aliases": [{"written": "1", "read_as": "yes"}],
    "columns": [
        AGE | {"gaps": "flag", "centre": 50.0, "scale": 10.0, "minimum": 0.0, "maximum": 120.0, "unit": "years"},
        SEX | {"gaps": "refuse", "aliases": [{"written": "w", "read_as": "f"}], "other": "m"},
        {"name": "b", "kind": "category", "values": ["x"], "unknown": "gap"},
    ],
}
ARRAYS = {"kind": "arrays", "shape": [1, 8, 8], "classes": ["0", "1"], "inputs": "numbers", "test_share": 0.1}
SOURCE = {"kind": "source", "source": "hospitals", "test_share": 0.3}


@pytest.mark.parametrize("section", [TABLE, WHOLE, ARRAYS, SOURCE, {"source": "hospitals"}], ids=lambda s: str(len(s)))
def test_a_schema_is_the_same_after_toml_and_json(section):
    schema = schema_of(section)
    config = schema.to_config()
    for copy in (json.loads(json.dumps(config)), tomllib.loads(schema_text(schema, ["a\nb"]))["data"]):
        assert schema_of(copy).to_config() == config
        assert schema_fingerprint(schema_of(copy)) == schema_fingerprint(schema)
    assert set(section) <= set(config)


def test_what_decides_numbers_is_written_down_also_where_it_is_the_default():
    assert {"standardise", "missing", "test_share", "classes"} <= set(schema_of(TABLE).to_config())


def test_another_order_is_another_schema():
    other = {**TABLE, "columns": [SEX, AGE]}
    swapped = {**TABLE, "classes": ["yes", "no"]}
    prints = {schema_fingerprint(schema_of(each)) for each in (TABLE, other, swapped)}
    assert len(prints) == 3


def test_the_form_of_an_example_is_known_without_data():
    assert schema_of(WHOLE).features == ("age", "age missing", "sex=f", "sex=m", "b=x")
    assert schema_of(WHOLE).input_shape == (5,)
    assert schema_of(ARRAYS).input_shape == (1, 8, 8)
    hospitals = schema_of(SOURCE)
    assert (hospitals.input_shape, hospitals.class_names) == ((35,), ("0", "1"))


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({"kind": "tables"}, "needs kind ="),
        ({"colums": []}, "no option 'colums'"),
        ({"columns": []}, "at least one is needed"),
        ({"columns": [AGE, AGE]}, "names 'age' twice"),
        ({"columns": [AGE, {"name": "ill", "kind": "numeric"}]}, "names 'ill' twice"),
        ({"classes": ["no"]}, "alone; 2 are needed"),
        ({"classes": ["no", "no"]}, "'no' twice"),
        ({"classes": ["no", "None"]}, "a gap"),
        ({"classes": ["no", " yes"]}, "no blanks"),
        ({"classes": [0, 1]}, "a text"),
        ({"columns": [AGE | {"values": ["1"]}]}, "is numeric"),
        ({"columns": [AGE | {"scale": 0}]}, "above 0"),
        ({"columns": [AGE | {"minimum": 2, "maximum": 1}]}, "above its maximum"),
        ({"columns": [AGE | {"kind": "number"}]}, "'numeric' or 'category'"),
        ({"columns": [SEX | {"values": []}]}, "needs its values"),
        ({"columns": [SEX | {"maximum": 1}]}, "has no minimum"),
        ({"columns": [SEX | {"other": "x"}]}, "none of its values"),
        ({"columns": [SEX | {"aliases": [{"written": "w", "read_as": "x"}]}]}, "none of its values"),
        ({"columns": [SEX | {"aliases": [{"written": "m", "read_as": "f"}]}]}, "a value itself"),
        (
            {"columns": [SEX | {"aliases": [{"written": "w", "read_as": "f"}, {"written": "w", "read_as": "m"}]}]},
            "two ways",
        ),
        ({"test_share": 1.0}, "test share"),
        ({"split": "randm"}, "did you mean 'random'"),
        ({"columns": "age"}, "a list"),
    ],
)
def test_what_a_schema_cannot_state_is_refused(changes, needed):
    with pytest.raises(ConfigError, match="the schema") as error:
        schema_of({**TABLE, **changes})
    assert needed in str(error.value)


@pytest.mark.parametrize(
    ("section", "needed"),
    [
        ({**ARRAYS, "shape": [0]}, "1 and more"),
        ({**ARRAYS, "classes": ["a"]}, "two or more"),
        ({"source": "hospital"}, "did you mean 'hospitals'"),
        ({"source": "../secret.csv"}, "no packaged data source"),
        ({"source": ".csv"}, "no packaged data source"),
        ({"source": "hospitals", "key": 3}, "'key'"),
    ],
)
def test_schemas_of_arrays_and_of_sources_are_checked(section, needed):
    with pytest.raises(ConfigError, match=needed):
        schema_of(section)


def test_the_page_on_data_shows_a_schema_and_a_clients_own_file(tmp_path):
    page = (Path(__file__).parents[2] / "docs/data.md").read_text()
    shown = re.findall(
        r"^```toml\n(.*?)^```", page[page.index("## Tables of a federation") :], re.DOTALL | re.MULTILINE
    )
    schema = schema_of(tomllib.loads(shown[0])["data"])
    (tmp_path / "agent.toml").write_text(shown[1])
    (tmp_path / "patients.csv").write_text("Alter,chol,sex,ward,ill\n50,,1,A,no\n61,220,2,Z,yes\n")
    form = AgentData.of(AgentFile.of(tmp_path / "agent.toml"))
    data = load_with_schema(tmp_path / "patients.csv", schema, "a", form=form.form)
    assert data.features == ("age", "chol", "chol missing", "sex=f", "sex=m", "ward=A", "ward=B", "ward=other")
    assert data.store.inputs[:, 2:].tolist() == [[1, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 1]]
