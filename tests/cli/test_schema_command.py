"""`headway schema`: from tables to the section [data] of a federation."""

import tomllib

import pytest
from typer.testing import CliRunner

from headway.cli.main import app
from headway.core.errors import ConfigError, DataError
from headway.data.sources.data_schema import schema_of

A = "id,age,sex,ill\n1,50,m,0\n2,,f,1\n3,61,f,0\n"
B = "age,ill,sex\n44,1,x\n45,2,m\n"


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path, text in zip(paths, (A, B), strict=True):
        path.write_text(text)
    return [str(path) for path in paths]


def run(*words):
    result = CliRunner().invoke(app, ["schema", *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_values_are_those_of_all_tables(files, tmp_path):
    place = tmp_path / "schema.toml"
    assert "2 columns, 5 inputs" in run(*files, "--target", "ill", "--drop", "id", "--out", str(place))
    schema = schema_of(tomllib.loads(place.read_text())["data"])
    assert schema.class_names == ("0", "1", "2")
    assert schema.features == ("age", "age missing", "sex=f", "sex=m", "sex=x")


def test_standard_output_is_a_section_of_toml(files):
    schema = schema_of(tomllib.loads(run(files[0], "--target", "ill"))["data"])
    assert schema.features == ("age", "age missing", "sex=f", "sex=m")
    assert schema.class_names == ("0", "1")


def test_tables_that_differ_are_refused(files, tmp_path):
    (tmp_path / "c.csv").write_text("age,sex,ill\nold,m,0\nyoung,f,1\n")
    with pytest.raises(DataError, match=r"'age' holds numbers in .*a.csv and text in .*c.csv"):
        run(files[0], str(tmp_path / "c.csv"), "--target", "ill")
    (tmp_path / "d.csv").write_text("age,ill\n1,0\n2,1\n")
    with pytest.raises(DataError, match=r"d.csv has no column 'sex'"):
        run(files[0], str(tmp_path / "d.csv"), "--target", "ill")


def test_a_file_is_not_written_over(files, tmp_path):
    (tmp_path / "schema.toml").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        run(files[0], "--target", "ill", "--out", str(tmp_path / "schema.toml"))
    with pytest.raises(ConfigError, match="'classification' or 'regression'"):
        run(files[0], "--task", "guess")
