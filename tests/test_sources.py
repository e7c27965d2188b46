"""The laws of data sources, over every registered one and every kind of folder; a new one needs a maker here."""

import gzip
import inspect
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headway.core.errors import ConfigError, DataError
from headway.data import FederatedData, load, sources
from headway.data.sources.images import FASHION_MNIST, has_idx
from headway.data.sources.source_registry import SOURCES, parameters_of

ROWS = 60
IID = {"partition": {"kind": "iid"}, "clients": 3}
RNG = np.random.default_rng(0)
X, Y, CLIENT = RNG.random((ROWS, 3)).astype(np.float32), np.arange(ROWS) % 2, np.arange(ROWS) % 3


def npz(folder: Path) -> dict:
    np.savez(folder / "d.npz", x=X, y=Y, client=CLIENT)
    return {"source": folder / "d.npz"}


def table(folder: Path, suffix: str = ".csv", separator: str = ",") -> dict:
    lines = [separator.join(("a", "b", "c", "y", "site"))]
    lines += [
        separator.join([*(f"{value:.4f}" for value in x), f"class{y}", f"s{owner}"])
        for x, y, owner in zip(X, Y, CLIENT, strict=True)
    ]
    path = folder / f"d{suffix}"
    path.write_text("\n".join(lines) + "\n")
    return {"source": path, "target": "y", "client_column": "site"}


def parquet(folder: Path) -> dict:
    import pyarrow as pa
    import pyarrow.parquet

    columns = {"a": X[:, 0], "b": X[:, 1], "y": [f"class{y}" for y in Y], "site": [f"s{owner}" for owner in CLIENT]}
    pa.parquet.write_table(pa.table(columns), folder / "d.parquet")
    return {"source": folder / "d.parquet", "target": "y", "client_column": "site"}


def pictures(folder: Path) -> dict:
    for name in ("cat", "dog"):
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(12):
            picture = Image.fromarray(RNG.integers(0, 255, (6, 6, 3), dtype=np.uint8))
            picture.save(folder / "pictures" / name / f"{number}.png")
    return {"source": folder / "pictures", **IID}


def idx(folder: Path) -> dict:
    (folder / "idx").mkdir()
    for part, count in (("train", 40), ("t10k", 10)):
        pixels = RNG.integers(0, 255, (count, 4, 4), dtype=np.uint8)
        labels = (np.arange(count) % 2).astype(np.uint8)
        for name, array in ((f"{part}-images-idx3-ubyte", pixels), (f"{part}-labels-idx1-ubyte", labels)):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / "idx" / f"{name}.gz").write_bytes(gzip.compress(head + array.tobytes()))
    return {"source": folder / "idx", **IID}


def mapped(folder: Path) -> dict:
    (folder / "mapped").mkdir()
    for name, array in (("x", X), ("y", Y.astype(np.int64)), ("client", CLIENT.astype(np.int64))):
        np.save(folder / "mapped" / f"{name}.npy", array)
    return {"source": folder / "mapped"}


def saved(folder: Path) -> dict:
    from datasets import Dataset

    columns = {"a": X[:, 0].tolist(), "b": X[:, 1].tolist(), "y": Y.tolist(), "site": [f"s{owner}" for owner in CLIENT]}
    Dataset.from_dict(columns).save_to_disk(str(folder / "saved"))
    return {"source": folder / "saved", "inputs": ["a", "b"], "target": "y", "client_column": "site"}


MAKERS = {
    "hospitals": lambda folder: {"source": "hospitals"},
    "mnist5k": lambda folder: {"source": "mnist5k", **IID},
    "synthetic": lambda folder: {"source": "synthetic", "clients": 4, "largest": 80},
    "digits": lambda folder: {"source": "digits", **IID},
    "fashion-mnist": lambda folder: {"source": "fashion-mnist", **IID},
    ".npz": npz,
    ".csv": table,
    ".tsv": lambda folder: table(folder, ".tsv", "\t"),
    ".parquet": parquet,
}
FOLDERS = {"pictures": pictures, "idx": idx, "mapped": mapped, "saved": saved}
NOT_HERE = {"mnist5k"}  # reads a file of a package that the tests do not install
NEEDS_ITS_SYSTEM = {"fashion-mnist": has_idx(FASHION_MNIST)}
ALL = [name for name in (MAKERS | FOLDERS) if name not in NOT_HERE and NEEDS_ITS_SYSTEM.get(name, True)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What `load` takes for each source, by name; files are written once."""
    folder = tmp_path_factory.mktemp("sources")
    return {name: (MAKERS | FOLDERS)[name](folder) for name in ALL}


@pytest.fixture(scope="module")
def data(made) -> dict[str, FederatedData]:
    """Each source as it is loaded with key 0."""
    return {name: load(**options) for name, options in made.items()}


def test_every_registered_source_has_a_maker() -> None:
    assert set(MAKERS) == {name for name in SOURCES if SOURCES.package(name) is None}
    assert len(sources()) == len(MAKERS) + 1  # folders are one line
    assert all(line and line == line.strip() for line in sources().values())


@pytest.mark.parametrize("name", ALL)
def test_data_describe_themselves(name, data) -> None:
    each = data[name]
    assert each.name
    assert each.description
    assert all(isinstance(note, str) and note and not note.endswith(".") for note in each.notes)
    assert each.split
    assert list(each.clients) == sorted(each.clients)
    assert each.classes is None or each.classes >= 2
    assert len(each.class_names) in (0, each.classes)
    assert len(each.features) in (0, *each.input_shape)


@pytest.mark.parametrize("name", ALL)
def test_the_fingerprint_is_that_of_the_values_and_the_key(name, data, made) -> None:
    assert load(**made[name]).fingerprint() == data[name].fingerprint()
    another = load(**made[name], key=1).fingerprint()
    assert (another == data[name].fingerprint()) == (name == "mapped")  # which draws nothing
    assert data[name].fingerprint() == data[name].with_notes(("more",)).fingerprint()


@pytest.mark.parametrize("name", ALL)
def test_no_example_is_in_two_parts(name, data) -> None:
    each = data[name]
    rows = [int(row) for part in (each.train, each.test) for index in part.values() for row in index]
    assert len(rows) == len(set(rows)) == len(each.store)
    assert all(len(each.train[client]) for client in each.clients)
    assert bool(each.test_sizes.any())


@pytest.mark.parametrize("name", ALL)
def test_a_share_of_none_leaves_no_test_part(name, made) -> None:
    assert not bool(load(**made[name], test_share=0.0).test_sizes.any())


@pytest.mark.parametrize("name", ALL)
def test_wrong_options_are_refused(name, made) -> None:
    options = made[name]
    with pytest.raises(ConfigError, match="has no option 'wrong'"):
        load(**options, wrong=1)
    for share in (-0.1, 1.0, "half"):
        with pytest.raises(ConfigError, match=r"test.share"):
            load(**options, test_share=share)
    with pytest.raises(ConfigError, match="split"):
        load(**options, split="middle")
    with pytest.raises(ConfigError, match="there is no shift 'noisy'"):
        load(**options, shift={"kind": "noisy"})
    given = {name: value for name, value in options.items() if name not in ("partition", "clients")}
    with pytest.raises(
        ConfigError, match="a partition cannot apply" if name == "mapped" else "there is no partition 'idd'"
    ):
        load(**given, partition={"kind": "idd"}, clients=3)
    with pytest.raises((ConfigError, DataError), match="client"):
        load(**{**options, "clients": -1})


@pytest.mark.parametrize("name", [name for name in MAKERS if name in ALL])
def test_a_required_option_is_named(name, made) -> None:
    options = made[name]
    for option, parameter in parameters_of(SOURCES[name].read).items():
        if parameter.default is inspect.Parameter.empty and option not in ("key", "path", "clients"):
            with pytest.raises(ConfigError, match=f"needs the option '{option}'"):
                load(**{key: value for key, value in options.items() if key != option})


@pytest.mark.parametrize("name", ALL)
def test_clients_of_its_own_and_a_partition_exclude_each_other(name, made) -> None:
    options = {key: value for key, value in made[name].items() if key not in ("partition", "clients")}
    own = "partition" not in made[name]
    if own and name != "mapped":
        with pytest.raises(ConfigError, match="clients of its own, so the partition 'iid' cannot apply"):
            load(**options, **IID)
    if not own:
        with pytest.raises(ConfigError, match="has no clients of its own; give a partition"):
            load(**options)


def test_an_unknown_source_is_refused_with_the_nearest(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"there is no data source 'hospital' .did you mean 'hospitals'"):
        load("hospital")
    with pytest.raises(ConfigError, match=r"has the suffix '.xls', but one of .npz, .csv, .tsv, .parquet is needed"):
        load(tmp_path / "d.xls")
    with pytest.raises(DataError, match="there is no folder"):
        load(tmp_path / "nowhere")
