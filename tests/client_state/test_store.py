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
