"""The data of an agent: one client's, and exactly those that the client has in a simulation."""

import numpy as np
import pytest
import torch

from headway.core.errors import ConfigError, DataError
from headway.data import load
from headway.federation.agent.agent_data import AgentData, one_client
from headway.federation.agent.agent_file import AgentFile
from headway.federation.http_api import JobDescription, TaskFacts, Versions

TABLE = {
    "kind": "table",
    "target": "ill",
    "classes": ["no", "yes"],
    "columns": [{"name": "age", "kind": "numeric"}, {"name": "sex", "kind": "category", "values": ["f", "m"]}],
}


def job(schema=None, seed=4):
    return JobDescription(
        job="j",
        name="n",
        versions=Versions(headway="0", torch="0", protocol=1, wire=1, draws=1),
        algorithm={},
        task=TaskFacts(layout="", parameters=1, loss="cross_entropy"),
        seed=seed,
        rounds=1,
        data_schema=schema or {},
    )


def read(spec, schema=None, client="a", seed=4):
    return AgentData.of(AgentFile.of(spec)).read(job(schema, seed), client)


def same(mine, theirs):
    return torch.equal(mine.inputs, theirs.inputs) and torch.equal(mine.targets, theirs.targets)


@pytest.mark.parametrize("client", ["cleveland", "hungary", "switzerland", "va"])
@pytest.mark.parametrize("schema", [None, {"source": "hospitals"}, {"source": "hospitals", "test_share": 0.4}])
def test_a_client_of_a_packaged_source_has_the_examples_of_the_simulation(client, schema):
    share = (schema or {}).get("test_share", 0.2)
    simulated = load("hospitals", key=4, test_share=share)
    data = read(f"hospitals:{client}", schema, client)
    assert data.clients == (client,)
    assert same(data.train_of(client), simulated.train_of(client))
    assert same(data.test_of(client), simulated.test_of(client))
    assert (data.features, data.classes) == (simulated.features, simulated.classes)
    assert not same(read(f"hospitals:{client}", schema, client, seed=5).test_of(client), data.test_of(client))


def test_a_partition_of_the_federation_is_that_of_the_simulation():
    options = {"clients": 5, "dimension": 4}
    schema = {"source": "synthetic", **options}
    simulated = load("synthetic", key=4, **options)
    name = simulated.clients[3]
    data = read(f"synthetic:{name}", schema, "north")
    assert data.clients == ("north",)
    assert same(data.train_of("north"), simulated.train_of(name))


def test_a_file_is_read_under_the_schema_of_the_federation(tmp_path):
    (tmp_path / "a.csv").write_text("geschl,ill,age,x\n1,yes,50,9\n2,no,60,9\n2,no,61,9\n")
    (tmp_path / "agent.toml").write_text(
        '[data]\nsource = "a.csv"\ndecimal = "."\n[data.columns]\nsex = "geschl"\n[data.values.sex]\n1 = "m"\n2 = "f"\n'
    )
    data = read(tmp_path / "agent.toml", TABLE, "north")
    assert data.features == ("age", "sex=f", "sex=m")
    assert data.class_names == ("no", "yes")
    assert data.clients == ("north",)


def test_the_data_are_read_again_for_each_job(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("age,sex,ill\n50,m,no\n51,f,yes\n")
    data = AgentData.of(AgentFile.of(path))
    first = data.read(job(TABLE), "a")
    path.write_text(path.read_text() + "70,f,no\n")
    second = data.read(job(TABLE), "a")
    assert (len(first.store), len(second.store)) == (2, 3)
    assert first.fingerprint() != second.fingerprint()


@pytest.mark.parametrize(
    ("section", "schema", "needed"),
    [
        ('source = "a.csv"\ntarget = "ill"', TABLE, "data.target .* states it for all clients"),
        ('source = "a.csv"\ndecimal = 1', TABLE, "data.decimal must be a text"),
        ('source = "a.csv"\nvalues = {sex = "m"}', TABLE, "data.values.sex must be a table of texts"),
        ('source = "a.csv"\nvalues = "m"', TABLE, "a table with a table for each column"),
        ('source = "a.csv"', None, "no schema of tables"),
        ('source = "a.csv"\nclient = "x"', TABLE, "a file of one client"),
        ('source = "hospitals"', None, "name one, as hospitals:CLIENT"),
        ('source = "hospitals:cleveland"', {"source": "digits"}, "of the source 'digits'"),
        ('source = "hospitals:cleveland"\ntest_share = 0.1', {"source": "hospitals"}, "data.test_share is stated"),
        ('source = "a.csv"', {"source": "hospitals"}, "is a file"),
        ('source = "a.csv"', {"kind": "tables"}, "the schema"),
    ],
)
def test_what_cannot_be_is_a_sentence(tmp_path, section, schema, needed):
    (tmp_path / "agent.toml").write_text(f"[data]\n{section}\n")
    (tmp_path / "a.csv").write_text("age,sex,ill\n50,m,no\n51,f,yes\n")
    with pytest.raises(ConfigError, match=needed):
        read(tmp_path / "agent.toml", schema)


def test_a_source_of_another_form_than_the_schema_is_refused_with_both_sides():
    with pytest.raises(DataError, match=r"features of 'hospitals' are age, .* needs age, sex=f, sex=m, in this order"):
        read("hospitals:va", TABLE)
    with pytest.raises(DataError, match=r"no client 'vaa' .did you mean 'va'"):
        read("hospitals:vaa")
    with pytest.raises(DataError, match="there is no file"):
        read("/nowhere/x.csv", TABLE)


def test_without_a_schema_a_client_states_its_own_target_and_a_note_says_so(tmp_path):
    (tmp_path / "a.csv").write_text("age,site,ill\n50,n,1\n51,n,0\n52,s,1\n53,s,0\n54,s,0\n")
    (tmp_path / "agent.toml").write_text('[data]\nsource = "a.csv"\ntarget = "ill"\nclient_column = "site"\n')
    data = read(tmp_path / "agent.toml", None, "s")
    assert (data.clients, len(data.store)) == (("s",), 3)
    assert any("no schema" in note for note in data.notes)
    np.savez(tmp_path / "b.npz", x=np.zeros((4, 3)), y=[0, 1, 1, 0])
    assert read(tmp_path / "b.npz").input_shape == (3,)


def test_one_client_of_data_keeps_its_examples():
    data = load("hospitals", key=0)
    alone = one_client(data, "va", "v")
    assert same(alone.train_of("v"), data.train_of("va"))
    assert same(alone.test_of("v"), data.test_of("va"))
    assert len(alone.store) == 200


def test_a_file_that_is_not_there_is_named_before_any_connection(tmp_path):
    (tmp_path / "north.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"there is no file .*north\.csvx \(did you mean 'north\.csv'\?\)"):
        AgentData.of(AgentFile.of(str(tmp_path / "north.csvx")))
