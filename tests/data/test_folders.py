"""Folders of pictures with what lies in real ones: other files, damaged ones, parts of the data, clients, 16 bits."""

import numpy as np
import pytest
import torch
from mk import toml
from PIL import Image

from headway.core.errors import ConfigError, DataError
from headway.data import load

IID = {"partition": {"kind": "iid"}, "clients": 2, "test_share": 0.0}
R = np.random.default_rng(0)


def paint(folder, count=4, base=60, shape=(6, 6, 3), start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        Image.fromarray((base + R.integers(-50, 50, shape)).astype("uint8")).save(folder / f"{number}.png")


def read(path, **options):
    return load(path, **(IID | options))


@pytest.fixture
def pets(tmp_path):
    for animal in ("cat", "dog"):
        paint(tmp_path / "pets" / animal, 10)
    return tmp_path / "pets"


def test_hidden_and_system_files_are_passed_over_and_counted(pets):
    clean = read(pets)
    for name in ("cat/._0.png", "cat/.DS_Store", "dog/Thumbs.db", "dog/notes.txt", "__MACOSX/cat/._1.png"):
        (pets / name).parent.mkdir(parents=True, exist_ok=True)
        (pets / name).write_bytes(b"\0" * 64)
    paint(pets / ".ipynb_checkpoints", 2)
    paint(pets / "cat" / "@eaDir", 2)
    (pets / "dog" / "album.png").mkdir()
    data = read(pets)
    assert data.fingerprint() == clean.fingerprint()
    assert "5 hidden or system files and folders are passed over: .ipynb_checkpoints, __MACOSX" in data.notes[0]
    assert data.notes[1] == "2 files that are no pictures are passed over: Thumbs.db, notes.txt"


def test_all_damaged_files_are_named_at_once_and_can_be_left_out(pets):
    clean = read(pets, central_share=0.0)
    (pets / "cat" / "empty.jpg").touch()
    (pets / "cat" / "page.png").write_text("<html>404</html>")
    (pets / "dog" / "cut.png").write_bytes((pets / "dog" / "1.png").read_bytes()[:100])
    (pets / "dog" / "gone.png").symlink_to(pets / "nowhere.png")
    with pytest.raises(
        DataError, match=r"4 pictures of .* cannot be read: cat/empty.jpg .empty., cat/page.png .no pict"
    ) as said:
        read(pets)
    assert "dog/cut.png" in str(said.value)
    assert "dog/gone.png (a link to nothing)" in str(said.value)
    assert 'data.damaged = "skip"' in str(said.value)
    data = read(pets, damaged="skip", central_share=0.0)
    assert data.fingerprint() == clean.fingerprint()
    assert any(note.startswith("4 of 24 pictures cannot be read and are left out") for note in data.notes)
    with pytest.raises(ConfigError, match="damaged is 'drop', but one of 'refuse', 'skip'"):
        read(pets, damaged="drop")


def test_links_are_followed_and_a_loop_ends(pets, tmp_path):
    paint(tmp_path / "elsewhere", 4)
    (pets / "eel").symlink_to(tmp_path / "elsewhere")
    (pets / "eel" / "loop").symlink_to(pets)
    data = read(pets)
    assert data.class_names == ("cat", "dog", "eel")
    assert any("links to folders are followed: eel" in note for note in data.notes)


def test_the_same_bytes_in_two_classes_or_in_training_and_test_are_mentioned(pets):
    (pets / "dog" / "DUP.PNG").write_bytes((pets / "cat" / "3.png").read_bytes())
    data = read(pets, central_share=0.0)
    assert "1 pictures have the same bytes as one of another class: cat/3.png = dog/DUP.PNG" in data.notes
    for number in range(10):
        (pets / "cat" / f"again{number}.png").write_bytes((pets / "cat" / f"{number}.png").read_bytes())
    notes = " ".join(read(pets, central_share=0.3, test_share=0.3).notes)
    assert "pictures of the central test set have the same bytes as one to train on" in notes
    assert "test examples are copies of one that is trained on" in notes


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("Training", "Validation", "Testing"), ("train_set", "valid", "test_set"),
     ("seg_train", "seg_dev", "seg_test"), ("TrainImages", "Val", "TestImages"), ("trainset", "valset", "testset")],
)  # fmt: skip
def test_training_and_test_folders_are_understood(tmp_path, train, val, test):
    for part, count in ((train, 6), (val, 3), (test, 2)):
        for kind in ("NORMAL", "PNEUMONIA"):
            paint(tmp_path / "xray" / part / kind, count)
    data = read(tmp_path / "xray")
    assert (data.class_names, len(data.store), len(data.central)) == (("NORMAL", "PNEUMONIA"), 12, 4)
    assert "12 train, 6 validation, 4 test; those of test are the central test set; those of valid" in data.notes[0]
    assert len(read(tmp_path / "xray", validation="train").store) == 18
    for file in (tmp_path / "xray" / test).rglob("*.png"):
        file.unlink()
    data = read(tmp_path / "xray")
    assert (len(data.store), len(data.central)) == (12, 6)
    assert "those of validation are the central test set" in data.notes[0]


def test_folders_that_are_no_known_parts_are_asked_about(tmp_path):
    for part in ("train", "test", "unlabelled"):
        paint(tmp_path / part / "a", 2)
    with pytest.raises(DataError, match=r"parts of the data .test, train. beside others .unlabelled."):
        read(tmp_path)
    for part in ("train", "car", "plane"):  # a train is a class here
        paint(tmp_path / "vehicles" / part, 2)
    assert read(tmp_path / "vehicles").class_names == ("car", "plane", "train")
    for kind in ("a", "b"):
        paint(tmp_path / "only" / "test" / kind, 2)
    with pytest.raises(DataError, match="folders for test, but none for training"):
        read(tmp_path / "only")
    paint(tmp_path / "one" / "a", 2)
    with pytest.raises(DataError, match="are of one class, 'a'; 2 classes are needed"):
        read(tmp_path / "one")


@pytest.mark.parametrize("deep", ["", "/left"])
@pytest.mark.parametrize("missing", [None, "south/a"])
def test_folders_for_clients_are_not_taken_for_classes(tmp_path, headway, missing, deep):
    for pair in ("north/a", "north/b", "south/a", "south/b"):
        if pair != missing:
            paint(tmp_path / "sites" / f"{pair}{deep}", 8)
    source = f'source = "{tmp_path / "sites"}"\ntest_share = 0.25'
    toml(tmp_path / "s.toml", f'{source}\nclients = 2\npartition = {{ kind = "iid" }}', rounds=1)
    code, _, err = headway("run", tmp_path / "s.toml")
    assert code != 0
    assert 'data.layout = "client/class" if they are clients that hold classes' in " ".join(err.split())
    toml(tmp_path / "s.toml", f'{source}\nlayout = "client/class"', rounds=1)
    code, out, _ = headway("run", tmp_path / "s.toml", "--out", "clients")
    assert code == 0
    assert "2 clients" in out
    assert f"classes 2: a{deep} (" in out
    data = read(tmp_path / "sites", layout="class")
    assert data.classes == (3 if missing else 4)


@pytest.mark.parametrize("order", ["{part}/{client}/{kind}", "{client}/{part}/{kind}"])
def test_clients_with_training_and_test_folders(tmp_path, order):
    for client in ("north", "south"):
        for part, count in (("train", 3), ("test", 2)):
            for kind in ("a", "b"):
                paint(tmp_path / order.format(part=part, client=client, kind=kind), count)
    data = load(tmp_path, layout="client/class")
    assert data.clients == ("north", "south")
    assert (data.train_sizes.tolist(), data.test_sizes.tolist(), data.central) == ([6, 6], [4, 4], None)


@pytest.mark.parametrize("colour", ["grey", "rgb"])
@pytest.mark.parametrize("side", [None, 5])
def test_sixteen_bits_are_scaled_by_their_range(tmp_path, colour, side):
    values = {}
    for kind, shift in (("healthy", 0), ("ill", 9000)):
        (tmp_path / kind).mkdir()
        grey = (20_000 + shift + R.integers(0, 12_000, (5, 5))).astype("uint16")
        Image.fromarray(grey).save(tmp_path / kind / "0.png")
        Image.fromarray(grey).save(tmp_path / kind / "1.tif")
        values[kind] = grey
    data = read(tmp_path, colour=colour, side=side, central_share=0.0)
    for label, kind in enumerate(values):
        pixels = data.store.inputs[data.store.targets == label]
        wanted = torch.from_numpy(values[kind] / 65_535).float().expand_as(pixels)
        assert torch.allclose(pixels, wanted, atol=1e-6)
    assert "4 pictures have 16 bits: 0 to 65,535 becomes 0 to 1" in data.notes


def test_eight_bits_beside_sixteen_and_dark_pictures(tmp_path):
    for kind, base in (("a", 100), ("b", 3000)):
        (tmp_path / kind).mkdir()
        image = np.full((4, 4), base) + np.arange(16).reshape(4, 4)
        Image.fromarray(image.astype("uint8" if kind == "a" else "uint16")).save(tmp_path / kind / "0.png")
    data = read(tmp_path, colour="grey", central_share=0.0)
    assert data.store.inputs[0, 0, 0, :2].tolist() == pytest.approx([100 / 255, 101 / 255])
    assert data.store.inputs[1, 0, 0, :2].tolist() == pytest.approx([3000 / 65_535, 3001 / 65_535])
    assert "pixels of 8 bits, 0 to 255, become 0 to 1" in data.notes
    assert any("the brightest pixel is 3,015" in note for note in data.notes)


def test_what_is_dropped_from_a_picture_is_said(tmp_path):
    paint(tmp_path / "a", 1, shape=(6, 6, 4))
    frames = [Image.fromarray(R.integers(0, 255, (6, 6), dtype=np.uint8)) for _ in range(3)]
    (tmp_path / "b").mkdir()
    frames[0].save(tmp_path / "b" / "film.gif", save_all=True, append_images=frames[1:])
    Image.new("L", (6, 6), 255).save(tmp_path / "b" / "white.png")
    notes = " ".join(read(tmp_path, central_share=0.0).notes)
    assert "1 pictures have transparent pixels" in notes
    assert "1 files hold several frames, of which the first is read" in notes
    assert "1 of 3 pictures are nearly all of one value" in notes
    floats = Image.fromarray(R.random((6, 6)).astype("float32"))
    floats.save(tmp_path / "b" / "float.tif")
    with pytest.raises(DataError, match=r"float.tif .its pixels are floats"):
        read(tmp_path)
