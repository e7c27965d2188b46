"""The examples of each client without an object per client: views, rows, and data of many clients."""

import tracemalloc

import numpy as np
import pytest
import torch

from headway.core.errors import ConfigError, DataError
from headway.data import ClientIndex, Examples, FederatedData, NumberedNames, load, mapped, mapped_examples
from headway.data.dataset.labels import LabelCounts

GIVEN = {"b": torch.tensor([5, 1]), "a": torch.tensor([2, 3, 4]), "c": torch.tensor([], dtype=torch.int64)}


def test_parts_are_the_mapping_they_were_made_of():
    parts = ClientIndex.of(GIVEN)
    assert list(parts) == ["a", "b", "c"]
    assert parts.sizes.tolist() == [3, 2, 0]
    assert all(torch.equal(parts[client], index) for client, index in GIVEN.items())
    assert "a" in parts
    assert "z" not in parts
    assert 3 not in parts
    assert ClientIndex.of(parts) is parts
    with pytest.raises(KeyError):
        parts["z"]
    assert parts["a"].untyped_storage().data_ptr() == parts["b"].untyped_storage().data_ptr()


def test_rows_are_those_of_the_clients_asked_in_their_order():
    parts = ClientIndex.of(GIVEN)
    index, sizes = parts.rows(["c", "b", "a", "b"])
    assert index.tolist() == [5, 1, 2, 3, 4, 5, 1]
    assert sizes.tolist() == [0, 2, 3, 2]
    assert [each.tolist() for each in parts.rows([])] == [[], []]
    with pytest.raises(KeyError):
        parts.rows(["a", "z"])


def test_only_neighbours_in_the_store_are_a_run():
    parts = ClientIndex.of(
        {**GIVEN, "d": torch.tensor([7]), "e": torch.tensor([8, 9, 11]), "f": torch.tensor([12, 13])}
    )
    found = [each if isinstance(each, slice) else each.tolist() for each in parts.selections(["a", "b", "d", "e", "f"])]
    assert found == [slice(2, 5), [5, 1], slice(7, 8), [8, 9, 11], slice(12, 14)]
    assert torch.arange(20)[parts.selections(["c"])[0]].tolist() == []


def test_parts_without_an_index_hold_what_lies_in_order():
    parts = ClientIndex(NumberedNames(3), torch.tensor([0, 4, 6]), torch.tensor([2, 0, 3]))
    assert [index.tolist() for index in parts.values()] == [[0, 1], [], [6, 7, 8]]
    assert parts.rows(["client-2", "client-0"])[0].tolist() == [6, 7, 8, 0, 1]
    assert parts.selections(["client-2", "client-1"]) == [slice(6, 9), slice(4, 4)]
    same = ClientIndex.of(
        {"client-0": torch.tensor([0, 1]), "client-1": torch.arange(0), "client-2": torch.arange(6, 9)}
    )
    assert parts == same
    assert parts != ClientIndex.of(GIVEN)
    assert parts != ClientIndex(NumberedNames(3), torch.tensor([0, 4, 5]), torch.tensor([2, 0, 3]))


def test_blocks_are_all_indices_whatever_their_size(monkeypatch):
    parts = ClientIndex.of(GIVEN)
    for size in (1, 2, 3, 100):
        monkeypatch.setattr("headway.data.dataset.client_index.BLOCK", size)
        assert torch.cat(list(parts.blocks())).tolist() == [2, 3, 4, 5, 1]


def test_parts_refuse_what_does_not_fit():
    with pytest.raises(DataError, match="starts must be one int64 number for each of 2 clients"):
        ClientIndex(("a", "b"), torch.zeros(1, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(DataError, match="lie within the index"):
        ClientIndex(("a",), torch.tensor([1]), torch.tensor([2]), torch.arange(2))
    with pytest.raises(DataError, match="sizes are from 0"):
        ClientIndex(("a",), torch.tensor([1]), torch.tensor([-1]))


def toy(count: int = 10, classes: int = 3) -> Examples:
    return Examples(torch.arange(2.0 * count).reshape(count, 2), torch.arange(count) % classes)


def test_data_in_order_are_those_of_explicit_indices():
    data = FederatedData.in_order("toy", toy(), clients=3, test_share=0.4, classes=3)
    train = {"client-0": torch.tensor([0, 1]), "client-1": torch.tensor([4, 5]), "client-2": torch.tensor([7, 8])}
    test = {"client-0": torch.tensor([2, 3]), "client-1": torch.tensor([6]), "client-2": torch.tensor([9])}
    same = FederatedData("toy", toy(), train, test, classes=3)
    assert list(data.clients) == list(same.clients)
    assert (data.train, data.test) == (same.train, same.test)
    assert data.fingerprint() == same.fingerprint()
    assert data.summary() == same.summary()
    assert data.train_of("client-1").inputs.data_ptr() == data.store.inputs[4].data_ptr()
    assert data.clients is data.clients


def test_sizes_say_who_holds_how_much():
    data = FederatedData.in_order("toy", toy(), clients=3, sizes=torch.tensor([1, 7, 2]), test_share=0.5, classes=3)
    assert (data.train_sizes.tolist(), data.test_sizes.tolist()) == ([1, 3, 1], [0, 4, 1])
    with pytest.raises(DataError, match="add up to 9, but 'toy' has 10"):
        FederatedData.in_order("toy", toy(), clients=2, sizes=torch.tensor([7, 2]))
    with pytest.raises(DataError, match="10 examples for 11 clients"):
        FederatedData.in_order("toy", toy(), clients=11)
    with pytest.raises(DataError, match="'client-1' has no training example"):
        FederatedData.in_order("toy", toy(), clients=2, sizes=torch.tensor([10, 0]))
    with pytest.raises(ConfigError, match="test share is 1"):
        FederatedData.in_order("toy", toy(), clients=2, test_share=1)


def test_what_is_wrong_in_a_late_block_is_found(monkeypatch):
    monkeypatch.setattr("headway.data.dataset.blocks.BLOCK_BYTES", 16)
    monkeypatch.setattr("headway.data.dataset.client_index.BLOCK", 2)
    bad = toy()
    bad.inputs[7, 1], bad.inputs[9, 0] = float("nan"), float("inf")
    with pytest.raises(DataError, match=r"2 inputs are NaN or infinite, the first at example 7 of client 'client-3'"):
        FederatedData.in_order("toy", bad, clients=5, classes=3)
    bad = toy()
    bad.targets[8] = 3
    with pytest.raises(DataError, match=r"label of example 8 of client 'client-4' is outside 0 to 2"):
        FederatedData.in_order("toy", bad, clients=5, classes=3)
    with pytest.raises(DataError, match=r"example 1 is held more than once .by 'a', 'c'"):
        FederatedData("toy", toy(), {"a": torch.tensor([1]), "b": torch.tensor([0, 2]), "c": torch.tensor([3, 1])})
    with pytest.raises(DataError, match=r"client 'c' names the training example 10"):
        FederatedData("toy", toy(), {"a": torch.tensor([1]), "b": torch.tensor([0, 2]), "c": torch.tensor([10])})


def test_blocks_do_not_change_a_fingerprint(monkeypatch):
    data = FederatedData.in_order("toy", toy(), clients=5, test_share=0.5, classes=3)
    whole = data.fingerprint()
    monkeypatch.setattr("headway.data.dataset.blocks.BLOCK_BYTES", 24)
    monkeypatch.setattr("headway.data.dataset.federated.CLIENTS_AT_ONCE", 2)
    assert data.fingerprint() == whole


def test_a_fingerprint_is_the_same_in_every_version():
    data = FederatedData(
        "pinned",
        Examples(torch.arange(24.0).reshape(4, 6).t(), torch.arange(6) % 2),
        {"a'": torch.tensor([4, 1]), "b": torch.tensor([0])},
        classes=2,
    )
    assert data.fingerprint() == "56d8915891e20f044d10700abe9b664a"


def test_a_number_type_that_fits_copies_nothing():
    data = FederatedData.in_order("toy", toy(), clients=5, classes=3)
    assert data.to(torch.float32) is data
    assert data.to(torch.float64).store.inputs.dtype == torch.float64


def test_a_million_clients_take_a_few_bytes_each():
    store = Examples(torch.zeros(1_000_000, 1), torch.zeros(1_000_000, dtype=torch.int64))
    tracemalloc.start()
    data = FederatedData.in_order("many", store, clients=1_000_000, classes=1)
    assert len(data.clients) == 1_000_000
    assert data.train_of("client-999999").inputs.shape == (1, 1)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000  # bytes of Python objects, at the most
    tracemalloc.stop()
    with pytest.raises(DataError, match=r"no client 'x' \(it has 1000000, 'client-000000' to 'client-999999'\)"):
        data.test_of("x")


def test_labels_are_counted_when_asked_for():
    data = FederatedData.in_order("toy", toy(), clients=3, classes=3)
    counts = LabelCounts(data)
    assert dict(counts) == {each.client: each.labels for each in data.summary()}
    assert counts.total() == (4, 3, 3)
    regression = LabelCounts(FederatedData("r", Examples(torch.zeros(2, 1), torch.zeros(2)), {"a": torch.arange(2)}))
    assert (len(regression), list(regression), "a" in regression, regression.total()) == (0, [], False, ())


class TestMapped:
    @pytest.fixture
    def folder(self, tmp_path):
        np.save(tmp_path / "x.npy", toy().inputs.numpy())
        np.save(tmp_path / "y.npy", toy().targets.numpy())
        return tmp_path

    def test_examples_stay_on_disk_and_are_in_order(self, folder):
        data = mapped(folder, clients=5, test_share=0.5)
        assert data.classes == 3
        assert torch.equal(data.store.inputs, toy().inputs)
        assert (
            data.fingerprint() == FederatedData.in_order("t", toy(), clients=5, test_share=0.5, classes=3).fingerprint()
        )
        again = np.load(folder / "x.npy", mmap_mode="r+")
        again[3] = 77.0  # what the file says is what is there: nothing was read into memory
        assert data.store.inputs[3].tolist() == [77.0, 77.0]
        data.store.inputs[4] = -1.0
        assert np.load(folder / "x.npy")[4, 0] == 8.0

    @pytest.mark.parametrize("owners", [[0, 0, 0, 1, 1, 2, 2, 2, 2, 2], [2, 0, 1, 2, 0, 2, 2, 1, 0, 2]])
    def test_a_number_for_each_example_says_whose_it_is(self, folder, owners):
        np.save(folder / "client.npy", np.array(owners))
        data = mapped(folder, test_share=0.0)
        assert {c: i.tolist() for c, i in data.train.items()} == {
            f"client-{n}": [i for i, owner in enumerate(owners) if owner == n] for n in range(3)
        }
        assert mapped(folder, test_share=0.4, clients=3).test_sizes.tolist() == [1, 1, 2]

    def test_a_run_file_names_the_folder(self, folder):
        data = load(folder, clients=5, test_share=0.5)
        assert data.fingerprint() == mapped(folder, clients=5, test_share=0.5).fingerprint()
        dealt = load(folder, clients=2, partition={"kind": "iid"}, test_share=0.0)
        assert sorted(torch.cat(list(dealt.train.values())).tolist()) == list(range(10))
        np.save(folder / "client.npy", np.zeros(10, dtype=np.int64))
        with pytest.raises(ConfigError, match=r"client.npy, so a partition cannot apply"):
            load(folder, clients=2, partition={"kind": "iid"})
        with pytest.raises(ConfigError, match=r"has 1 clients of its own, not 2"):
            load(folder, clients=2)
        with pytest.raises(ConfigError, match=r"has no option 'target'"):
            load(folder, target="y")

    def test_what_is_wrong_is_said(self, folder):
        with pytest.raises(ConfigError, match=r"has no client.npy, so clients, their number, is needed"):
            mapped(folder)
        for owners, sentence in (
            ([0] * 9, r"is \[9\], but one number for each of 10"),
            ([0] * 9 + [-1], "holds -1, but client numbers start at 0"),
            ([0] * 9 + [10], "names the client 10, but there are only 10 examples"),
            ([0] * 9 + [2], "gives the client 1 no example"),
        ):
            np.save(folder / "client.npy", np.array(owners))
            with pytest.raises(DataError, match=sentence):
                mapped(folder)
        with pytest.raises(DataError, match="there is no file"):
            mapped_examples(folder / "x.npy", folder / "z.npy")
        np.save(folder / "x.npy", np.zeros((10, 2), dtype=np.uint8))
        with pytest.raises(DataError, match=r"holds uint8 \[10, 2\], but float32 or float64 or int64 in C order"):
            mapped(folder, clients=2)
        (folder / "x.npy").write_bytes(b"no array")
        with pytest.raises(DataError, match=r"is not a readable .npy file"):
            mapped(folder, clients=2)
