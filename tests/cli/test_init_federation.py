"""`headway init --federation`: a server's file from one client's table."""

import tomllib

import pytest
from typer.testing import CliRunner

from headway.cli.main import app
from headway.core.errors import ConfigError, DataError
from headway.data.sources.data_schema import schema_of


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(
        f"{40 + place},{'mf'[place % 2]},{'no' if place % 3 else 'yes'},{place / 7}\n" for place in range(30)
    )
    (tmp_path / "a.csv").write_text("age,sex,ill,dose\n" + rows)
    return tmp_path / "a.csv"


def init(*words):
    result = CliRunner().invoke(app, ["init", "--federation", *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_the_file_has_the_run_and_the_schema(table, tmp_path):
    output = init("--data", "a.csv", "--target", "ill", "--drop", "age")
    tables = tomllib.loads((tmp_path / "federation.toml").read_text())
    schema = schema_of(tables["data"])
    assert schema.features == ("sex=f", "sex=m", "dose")
    assert schema.class_names == ("no", "yes")
    assert {"run", "model", "task", "algorithm"} <= set(tables)
    assert "headway serve federation.toml" in output
    assert "classes no, yes" in output


def test_a_regression_has_no_classes(table, tmp_path):
    assert "numbers" in init("--data", "a.csv", "--target", "dose", "--out", "f.toml", "--preset", "cross-silo")
    tables = tomllib.loads((tmp_path / "f.toml").read_text())
    assert schema_of(tables["data"]).class_names == ()
    assert tables["algorithm"]["preset"] == "cross-silo"
    assert "metrics" not in tables["task"]


def test_what_does_not_apply_is_refused_and_nothing_is_written(table, tmp_path):
    with pytest.raises(ConfigError, match="each client of a federation has its own table"):
        init("--data", "a.csv", "--client-column", "sex")
    with pytest.raises(ConfigError, match="a schema is made from a table"):
        init("--data", "a.npz")
    with pytest.raises(DataError, match="did you mean 'dose'"):
        init("--data", "a.csv", "--target", "doses")
    assert not (tmp_path / "federation.toml").exists()
    (tmp_path / "federation.toml").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        init("--data", "a.csv", "--target", "ill")
