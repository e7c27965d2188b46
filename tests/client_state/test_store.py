"""The commit rule, and memory on disk."""

import pytest
import torch

from headway.client_state.store import MemoryStore
from headway.core.errors import RunFolderError


def memory(number: float):
    return {"Scaffold": {"control": torch.full((3,), number)}}


def held(store: MemoryStore, client: str) -> float | None:
    found = store.get(client)
    return None if found is None else float(found["Scaffold"]["control"][0])


def test_only_counted_updates_commit():
    store = MemoryStore(["a", "b"])
    for client in ("a", "b"):
        store.propose(client, (0, 0), memory(1.0))
    assert held(store, "a") is None
    store.settle((0, 0), ["a"])
    assert held(store, "a") == 1.0
    assert held(store, "b") is None


def test_memory_of_another_attempt_is_forgotten():
    store = MemoryStore(["a", "b"])
    store.propose("a", (3, 0), memory(1.0))
    store.settle((3, 1), ["a"])
    store.settle((3, 0), ["a"])
    assert held(store, "a") is None


def test_disk_versions_follow_the_round(tmp_path):
    path = tmp_path / "memory.sqlite"
    store = MemoryStore(["a", "b"])
    for round_ in (1, 2, 3):
        store.propose("a", (round_, 0), memory(float(round_)))
        if round_ == 2:
            store.propose("b", (round_, 0), memory(20.0))
        store.settle((round_, 0), ["a", "b"])
        store.save(path, round_, oldest_kept=1)
    back = MemoryStore(["a", "b"])
    back.load(path, 2)
    assert (held(back, "a"), held(back, "b")) == (2.0, 20.0)
    back.load(path, 3)
    assert held(back, "a") == 2.0, "loading round 2 must have deleted what came after"


def test_old_versions_go_once_no_checkpoint_needs_them(tmp_path):
    path = tmp_path / "memory.sqlite"
    store = MemoryStore(["a", "b"])
    for round_ in range(1, 6):
        store.propose("a", (round_, 0), memory(float(round_)))
        store.settle((round_, 0), ["a"])
        store.save(path, round_, oldest_kept=round_ - 1)
    back = MemoryStore(["a", "b"])
    back.load(path, 4)
    assert held(back, "a") == 4.0
    back.load(path, 3)
    assert held(back, "a") is None


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "memory.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(RunFolderError, match=r"memory\.sqlite cannot be read"):
        MemoryStore().load(path, 1)


def test_a_group_proposes_one_client_at_a_time_and_is_pending_once_it_is_closed(tmp_path):
    first = {"Scaffold": {"control": torch.zeros(3)}}
    store = MemoryStore(("a", "b", "c"), tmp_path)
    for number, counted in enumerate((["b"], ["b", "c"])):
        group = store.of_group(["c", "b"], (number, 0))
        kept = [None if memory is None else memory["Scaffold"]["control"].tolist() for memory in group.committed]
        assert kept == [None, None if number == 0 else [0.0, 0.0, 0.0]]
        group.propose(1, {"Scaffold": {"control": torch.full((3,), float(number))}})
        group.propose(0, first if number else {})
        if number:
            group.close()
            store.settle((number, 0), counted)
        else:
            store.settle((number, 0), counted)
            assert store.get("b") is None, "a group that was not closed has proposed nothing"
            store.propose("b", (number, 1), first)
            store.settle((number, 1), counted)
    assert store.get("b")["Scaffold"]["control"].tolist() == [1.0, 1.0, 1.0]
    assert store.get("c")["Scaffold"]["control"].tolist() == [0.0, 0.0, 0.0]
    assert store.get("a") is None


def test_a_group_forgets_what_was_pending_of_its_clients(tmp_path):
    store = MemoryStore(("a", "b"), tmp_path)
    store.propose("a", (0, 0), {"Scaffold": {"control": torch.ones(2)}})
    store.of_group(["a"], (0, 0)).close()
    store.settle((0, 0), ["a"])
    assert store.get("a") is None


def test_pending_memory_is_that_of_the_attempt_until_its_verdict() -> None:
    store = MemoryStore(("a", "b"))
    store.propose("a", (1, 0), {"s": {"x": torch.ones(2)}})
    assert store.pending("a", (1, 0))["s"]["x"].tolist() == [1.0, 1.0]
    assert store.pending("a", (2, 0)) is None
    assert store.pending("b", (1, 0)) is None
    store.settle((1, 0), ["a"])
    assert store.pending("a", (1, 0)) is None
    assert store.get("a")["s"]["x"].tolist() == [1.0, 1.0]
