"""Images from IDX files, from folders of pictures, and rows of Hugging Face data sets."""

import gzip
import struct
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from headway.core.errors import ConfigError, DataError
from headway.data import from_huggingface, load
from headway.data.sources.images import FASHION_MNIST, has_idx
from headway.numerics.keys import Key

IID = {"partition": {"kind": "iid"}, "clients": 2}
RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (12, 5, 4), dtype=np.uint8), np.arange(12, dtype=np.uint8) % 3
TEST = RNG.integers(0, 256, (6, 5, 4), dtype=np.uint8), np.arange(6, dtype=np.uint8) % 4


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path):
    for part, (images, labels), zipped in (("train", TRAIN, True), ("t10k", TEST, False)):
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            if zipped:
                (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (tmp_path / name).write_bytes(idx(array))
    return tmp_path


class TestIdx:
    def test_what_the_files_hold_is_loaded(self, mnist):
        data = load(mnist, **IID, test_share=0.0)
        assert data.input_shape == (1, 5, 4)
        assert data.classes == 4  # the test part has a class more
        assert np.array_equal((data.store.inputs[:, 0] * 255).round().numpy(), TRAIN[0])
        assert data.store.targets.tolist() == TRAIN[1].tolist()
        assert np.array_equal((data.central.inputs[:, 0] * 255).round().numpy(), TEST[0])

    def test_without_a_test_part_there_is_no_central_set(self, mnist):
        for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
            (mnist / name).unlink()
        assert load(mnist, **IID).central is None

    @pytest.mark.parametrize(
        ("name", "content", "sentence"),
        [
            ("t10k-labels-idx1-ubyte", None, "has no file t10k-labels-idx1-ubyte"),
            ("t10k-labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\x06abc", "is cut short"),
            ("t10k-labels-idx1-ubyte", idx(np.zeros(5, np.uint8)), "6 images and 5 labels"),
            ("t10k-images-idx3-ubyte", idx(np.zeros(6, np.uint8)), "with 3 axes"),
            ("train-images-idx3-ubyte.gz", b"no gzip", "cannot be read"),
            ("train-images-idx3-ubyte.gz", gzip.compress(idx(TRAIN[0]))[:-9], "cannot be read"),
        ],
    )
    def test_damaged_files_are_named(self, mnist, name, content, sentence):
        (mnist / name).unlink()
        if content is not None:
            (mnist / name).write_bytes(content)
        with pytest.raises(DataError, match=sentence):
            load(mnist, **IID)

    @pytest.mark.skipif(not has_idx(FASHION_MNIST), reason="needs another system: Debian with dataset-fashion-mnist")
    def test_fashion_mnist(self):
        data = load("fashion-mnist", **IID, test_share=0.0)
        assert (len(data.store), len(data.central), data.classes) == (60_000, 10_000, 10)
        assert torch.bincount(data.central.targets).tolist() == [1000] * 10
        assert float(data.store.inputs.mean()) == pytest.approx(0.2860, abs=1e-4)  # the known mean and deviation
        assert float(data.store.inputs.std()) == pytest.approx(0.3530, abs=1e-4)


def paint(folder, count, shade, side=6, suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (side, side), (shade, number, 0)).save(folder / f"{number}.{suffix}")


class TestFolders:
    def test_a_class_is_a_folder_with_pictures(self, tmp_path):
        for name, count, shade in (("lung/aca", 5, 10), ("lung/n", 10, 20), ("colon/n", 5, 30)):
            paint(tmp_path / name, count, shade)
        lung = IID | {"layout": "class"}
        data = load(tmp_path, **lung, central_share=0.2, test_share=0.0)
        assert data.description.endswith("colon/n, lung/aca, lung/n")
        assert data.input_shape == (3, 6, 6)
        assert torch.bincount(data.central.targets).tolist() == [1, 1, 2]
        shades = (data.store.inputs[:, 0, 0, 0] * 255).round().int()
        assert torch.equal(shades, torch.tensor([30, 10, 20], dtype=torch.int32)[data.store.targets])
        again = load(tmp_path, **lung, central_share=0.2, test_share=0.0)
        assert again.fingerprint() == data.fingerprint()
        assert load(tmp_path, key=Key.root(1), **lung).fingerprint() != data.fingerprint()

    def test_train_and_test_folders(self, tmp_path):
        paint(tmp_path / "train" / "a", 4, 1)
        paint(tmp_path / "train" / "b", 4, 2)
        paint(tmp_path / "test" / "b", 2, 3)
        data = load(tmp_path, **IID, test_share=0.0)
        assert (len(data.store), data.classes) == (8, 2)
        assert data.central.targets.tolist() == [1, 1]

    def test_a_folder_for_each_client(self, tmp_path):
        for client, name, count in (("north", "a", 3), ("north", "b", 2), ("south", "b", 4)):
            paint(tmp_path / client / name, count, 9)
        data = load(tmp_path, layout="client/class", test_share=0.0)
        assert data.clients == ("north", "south")
        assert data.central is None
        assert [client.labels for client in data.summary()] == [(3, 2), (0, 4)]

    def test_grey_and_resized(self, tmp_path):
        paint(tmp_path / "a", 2, 100, side=6)
        paint(tmp_path / "b", 2, 100, side=9, suffix="jpeg")
        with pytest.raises(DataError, match=r"give data\.side"):
            load(tmp_path, **IID)
        data = load(tmp_path, **IID, side=4, colour="grey", central_share=0.0)
        assert data.input_shape == (1, 4, 4)
        assert float(data.store.inputs[0].mean() * 255) == pytest.approx(0.299 * 100, abs=1.0)  # the luma of red

    def test_refusals(self, tmp_path):
        paint(tmp_path / "a", 2, 100)
        for options, sentence in (
            ({"colour": "blue"}, "colour is 'blue'"),
            ({"side": 0}, "a whole number of pixels"),
            ({"layout": "x"}, "layout is 'x'"),
        ):
            with pytest.raises(ConfigError, match=sentence):
                load(tmp_path, **IID, **options)
        (tmp_path / "a" / "broken.png").write_bytes(b"\x89PNG nothing")
        with pytest.raises(DataError, match=r"1 picture of .* cannot be read: a/broken.png"):
            load(tmp_path, **IID)
        with pytest.raises(DataError, match=r"3 pictures of .* lie in no class folder"):
            load(tmp_path / "a", **IID)
        (tmp_path / "none").mkdir()
        with pytest.raises(DataError, match="holds no picture"):
            load(tmp_path / "none", **IID)
        with pytest.raises(DataError, match="there is no folder"):
            load(f"{tmp_path}/missing/", **IID)


@pytest.mark.skipif(find_spec("datasets") is None, reason="the package datasets is not installed")
class TestHuggingFace:
    def rows(self, count=8, **more):
        from datasets import ClassLabel, Dataset, Features, Value

        features = Features(a=Value("float32"), b=Value("int64"), label=ClassLabel(names=["no", "yes"]), **more)
        columns = {"a": np.arange(count) / 2, "b": range(count), "label": [0, 1] * (count // 2)}
        columns |= {name: [f"site {i % 2}" for i in range(count)] for name in more}
        return Dataset.from_dict(columns, features=features)

    def test_columns_of_numbers(self):
        data = from_huggingface(self.rows(), inputs=["a", "b"], target="label", **IID, test_share=0.0)
        assert data.store.inputs.tolist() == [[i / 2, float(i)] for i in range(8)]
        assert (data.classes, data.description) == (2, "rows of dataset; classes no, yes")

    def test_a_client_column_and_a_test_split(self, tmp_path):
        from datasets import DatasetDict, Value

        site = {"site": Value("string")}
        both = DatasetDict(train=self.rows(8, **site), test=self.rows(4, **site))
        data = from_huggingface(both, inputs=["a", "b"], target="label", client_column="site")
        assert data.clients == ("site 0", "site 1")
        assert [(len(data.train[c]), len(data.test[c])) for c in data.clients] == [(4, 2), (4, 2)]
        both.save_to_disk(tmp_path / "saved")
        again = load(tmp_path / "saved", inputs=["a", "b"], target="label", client_column="site")
        assert again.fingerprint() == data.fingerprint()

    def test_images_and_text_labels(self):
        from datasets import Dataset

        pictures = [Image.new("RGB", (3, 2), (i, 0, 0)) for i in range(6)]
        rows = Dataset.from_dict({"image": pictures, "kind": ["cat", "dog", "cat"] * 2})
        data = from_huggingface(rows, inputs="image", target="kind", **IID, test_share=0.0)
        assert data.input_shape == (3, 2, 3)
        assert (data.store.inputs[:, 0, 0, 0] * 255).round().tolist() == list(range(6))
        assert data.store.targets.tolist() == [0, 1, 0] * 2

    @pytest.mark.parametrize(
        ("options", "error", "sentence"),
        [
            ({"inputs": "aa", "target": "label"}, ConfigError, "no column 'aa'"),
            ({"inputs": "a", "target": "labl"}, ConfigError, "did you mean 'label'"),
            ({"inputs": (), "target": "label"}, ConfigError, "names no column"),
        ],
    )
    def test_refusals(self, options, error, sentence):
        with pytest.raises(error, match=sentence):
            from_huggingface(self.rows(), **options, **IID)

    def test_missing_and_ragged_values(self):
        from datasets import Dataset

        for values, sentence in (([1.0, None], "missing in 1 rows"), ([[1.0], [1.0, 2.0]], "different shapes")):
            with pytest.raises(DataError, match=sentence):
                from_huggingface(Dataset.from_dict({"x": values, "y": [0, 1]}), inputs="x", target="y", **IID)
        with pytest.raises(DataError, match="one split 'train' is needed"):
            from_huggingface({"test": 1}, inputs="x", target="y", **IID)
