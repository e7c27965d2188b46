"""Which examples are tested: one rule for every source, an option, and a line in the header."""

import json

import numpy as np
import pytest
import torch
from mk import blobs, toml

from headway.core.errors import ConfigError, DataError
from headway.data import from_torch, load

N = 240
X, Y = blobs(n=N, k=2)
CLIENT = np.arange(N) % 4
PATIENT = np.arange(N) // 8 % 15  # 15 patients, each at two clients or more


@pytest.fixture
def sources(tmp_path):
    """The same examples as arrays, as a table and mapped from disk."""
    np.savez(tmp_path / "a.npz", x=X, y=Y, client=CLIENT, patient=np.char.add("p", PATIENT.astype(str)))
    rows = [",".join(map(str, [CLIENT[i], *X[i], "ab"[Y[i]], PATIENT[i]])) for i in range(N)]
    header = ",".join(["client", *(f"f{j}" for j in range(10)), "y", "patient"])
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]))
    (tmp_path / "m").mkdir()
    for name, array in (("x", X), ("y", Y), ("client", CLIENT), ("patient", PATIENT)):
        np.save(tmp_path / "m" / f"{name}.npy", array if name == "x" else array.astype("int64"))
    return {
        "npz": (tmp_path / "a.npz", {}),
        "csv": (tmp_path / "t.csv", {"client_column": "client", "target": "y"}),
        "mapped": (tmp_path / "m", {}),
    }


def read(source, **options):
    path, own = source
    return load(path, **(own | options))


@pytest.mark.parametrize("source", ["npz", "csv", "mapped"])
@pytest.mark.parametrize("rule", ["random", "stratified", "last", "group"])
def test_every_source_takes_every_rule(sources, source, rule):
    data = read(sources[source], split=rule, **({"group": "patient"} if rule == "group" else {}))
    assert f'(data.split = "{rule}")' in data.split
    for train, test in zip(data.train.values(), data.test.values(), strict=True):
        if rule == "last":
            assert int(train.max()) < int(test.min())
            assert len(test) == 12
        elif rule == "group":
            assert set(PATIENT[train]).isdisjoint(PATIENT[test])
            assert 0 < len(test) < 30
        elif rule == "stratified":
            share = np.bincount(Y[torch.cat([train, test])], minlength=2) * 0.2
            assert (abs(np.bincount(Y[test], minlength=2) - share) <= 1).all()
        else:
            assert len(test) == 12


def test_sources_agree_on_the_same_rule(sources):
    for rule in ("random", "stratified", "last"):
        parts = [[index.tolist() for index in read(each, split=rule).test.values()] for each in sources.values()]
        assert parts[0] == parts[2]
        assert rule != "last" or parts[0] == parts[1]  # clients of a table are named as the file does


def test_what_nothing_says_is_as_it_was_and_is_said(sources, headway, tmp_path):
    assert read(sources["npz"]).fingerprint() == read(sources["npz"], split="stratified").fingerprint()
    assert read(sources["mapped"]).fingerprint() == read(sources["mapped"], split="last").fingerprint()
    assert "other sources draw them" in read(sources["mapped"]).split
    toml(tmp_path / "a.toml", f'source = "{tmp_path / "a.npz"}"', rounds=1)
    _, out, _ = headway("run", tmp_path / "a.toml", "--out", "one")
    assert "split   20 % of each client's examples are its test part, drawn at random, stratified by class" in out
    _, out, _ = headway("run", tmp_path / "a.toml", "--set", 'data.split="last"', "--out", "two")
    assert 'the last in their order (data.split = "last")' in out
    assert json.loads((tmp_path / "two" / "data.json").read_text())["split"].startswith("20 % of each client's")
    _, out, _ = headway("partition", tmp_path / "a.toml")
    assert "split   20 % of each client's examples" in out


def test_groups_on_both_sides_and_clients_of_one_group_are_said(sources, tmp_path):
    data = read(sources["npz"], group="patient")
    assert any("tested at one client and trained on at another" in note for note in data.notes)
    np.savez(tmp_path / "g.npz", x=X, y=Y, client=CLIENT, patient=np.where(CLIENT == 0, 99, np.arange(N) // 40))
    data = load(tmp_path / "g.npz", group="patient")
    assert "1 clients have examples of one group alone, and no test part" in data.notes
    assert len(data.test["client-0"]) == 0
    table = read(sources["csv"], group="patient")
    assert not [name for name in table.features if name.startswith("patient")]


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"split": "lats"}, ConfigError, "split is 'lats' .did you mean 'last'"),
        ({"split": "group"}, ConfigError, "needs group: the name of the array or column"),
        ({"split": "last", "group": "patient"}, ConfigError, 'which split = "last" has no use for'),
        ({"group": "patients"}, DataError, "no array 'patients' .did you mean 'patient'"),
        ({"group": 3}, ConfigError, "option 'group' of .* text is needed"),
    ],
)
def test_refusals(sources, options, error, sentence):
    with pytest.raises(error, match=sentence):
        read(sources["npz"], **options)


def test_a_rule_where_the_source_has_its_own_test_part_is_refused(tmp_path):
    parts = {"x_train": X, "y_train": Y, "client_train": CLIENT, "x_test": X, "y_test": Y, "client_test": CLIENT}
    np.savez(tmp_path / "own.npz", **parts)
    assert load(tmp_path / "own.npz").split == "the source says which examples of each client are tested"
    with pytest.raises(ConfigError, match="fixes which examples are tested, so split cannot apply"):
        load(tmp_path / "own.npz", split="last")


def test_values_cannot_be_stratified(tmp_path):
    np.savez(tmp_path / "r.npz", x=X, y=X[:, 0], client=CLIENT)
    with pytest.raises(ConfigError, match='needs one class per example; choose "random"'):
        load(tmp_path / "r.npz", split="stratified")


def test_sorted_by_class_the_last_examples_lack_classes_and_the_header_says_so(tmp_path, headway):
    order = np.argsort(Y, kind="stable")
    np.savez(tmp_path / "s.npz", x=X[order], y=Y[order], client=CLIENT)
    toml(tmp_path / "s.toml", f'source = "{tmp_path / "s.npz"}"\nsplit = "last"', rounds=1)
    _, out, _ = headway("run", tmp_path / "s.toml")
    assert "no test example of 0" in out


def test_neighbours_that_a_random_split_parts_are_mentioned(tmp_path):
    r = np.random.default_rng(0)
    x, y, client = [], [], []
    for c in range(3):
        for _ in range(10):  # a state of 30 steps, whose label is a coin
            state, label = r.normal(size=12), r.integers(2)
            x += [state + 0.05 * r.normal(size=12) for _ in range(30)]
            y, client = y + [label] * 30, client + [c] * 30
    np.savez(tmp_path / "d.npz", x=np.array(x, "float32"), y=y, client=client)
    told = "examples that follow each other are alike"
    assert any(told in note for note in load(tmp_path / "d.npz").notes)
    assert not any(told in note for note in load(tmp_path / "d.npz", split="last").notes)
    order = np.argsort(Y, kind="stable")  # sorted by class is no time series
    np.savez(tmp_path / "s.npz", x=X[order], y=Y[order], client=CLIENT)
    assert not any(told in note for note in load(tmp_path / "s.npz").notes)


def test_a_torch_dataset_takes_the_rule_too():
    pairs = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    data = from_torch(pairs, partition={"kind": "iid"}, clients=3, split="last")
    assert all(int(data.train[c].max()) < int(data.test[c].min()) for c in data.clients)
