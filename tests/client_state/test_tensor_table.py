"""Memory as tables: shared with forked processes, sparse, stacked, and safe when the disk is full."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from headway.client_state import shared_memory as shared
from headway.client_state.shared_memory import SharedBytes
from headway.client_state.store import MemoryStore
from headway.core.errors import ConfigError, RunFolderError

CLIENTS = [f"client-{i}" for i in range(6)]


def memory(value, size=7):
    return {"Scaffold": {"control": torch.full((size,), float(value))}}


def control(store, client):
    return store.get(client)["Scaffold"]["control"]


@pytest.fixture(params=["anonymous", "file"])
def store(request, tmp_path, monkeypatch):
    if request.param == "file":
        monkeypatch.setattr(shared, "ANONYMOUS", 0)
    return MemoryStore(CLIENTS, tmp_path)


@pytest.fixture
def on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "ANONYMOUS", 0)
    return MemoryStore(CLIENTS, tmp_path)


def in_a_fork(work):
    """Runs work in a forked process; whether it ended well."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
class TestProcesses:
    def test_they_see_each_others_rows(self, store):
        store.declare(memory(0))
        store.propose("client-0", (0, 0), memory(1))
        store.settle((0, 0), ["client-0"])

        def work():
            assert control(store, "client-0").eq(1).all()
            store.propose("client-0", (1, 0), memory(2))
            store.propose_stacked(["client-3", "client-1"], (1, 0), {"Scaffold": {"control": torch.ones(2, 7)}})

        assert in_a_fork(work)
        assert control(store, "client-0").eq(1).all(), "pending is not committed"
        store.settle((1, 0), ["client-0", "client-3"])
        assert control(store, "client-0").eq(2).all()
        assert control(store, "client-3").eq(1).all()
        assert store.get("client-1") is None
        assert in_a_fork(lambda: control(store, "client-0").eq(2).all())

    def test_a_verdict_here_is_known_there(self, store):
        store.declare(memory(0))
        asked, told = os.pipe()

        def work():
            os.read(asked, 1)
            assert control(store, "client-2").eq(5).all()

        child = os.fork()
        if child == 0:
            try:
                work()
            except BaseException:
                os._exit(1)
            os._exit(0)
        store.propose("client-2", (0, 0), memory(5))
        store.settle((0, 0), ["client-2"])
        os.write(told, b"!")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.close(asked)
        os.close(told)

    def test_a_table_made_after_the_fork_is_not_lost_in_silence(self, store):
        assert in_a_fork(lambda: store.propose("client-0", (0, 0), memory(1)))
        with pytest.raises(AssertionError, match="declare"):
            store.settle((0, 0), ["client-0"])


def test_views_cost_no_copy_and_a_verdict_moves_none(store):
    store.propose("client-0", (0, 0), memory(1))
    store.settle((0, 0), ["client-0"])
    first = control(store, "client-0")
    assert first.data_ptr() == control(store, "client-0").data_ptr()
    store.propose("client-0", (1, 0), memory(2))
    store.settle((1, 0), ["client-0"])
    assert first.eq(1).all(), "the row before stays until the next proposal"
    assert control(store, "client-0").data_ptr() != first.data_ptr()


def test_a_second_verdict_has_no_effect(store):
    store.propose("client-0", (0, 0), memory(1))
    store.settle((0, 0), [])
    store.settle((0, 0), ["client-0"])
    assert store.get("client-0") is None
    store.propose("client-0", (1, 0), memory(2))
    store.settle((1, 0), ["client-0", "client-0", "client-5"])
    store.settle((1, 0), ["client-0"])
    assert control(store, "client-0").eq(2).all()
    assert list(store.clients()) == ["client-0"]


class TestStacked:
    def test_gathering_is_getting_one_by_one(self, store):
        first = {"Scaffold": {"control": torch.arange(7.0), "more": torch.ones(2, 2)}}
        for i in (4, 1):
            kept = {"control": torch.randn(7), "more": torch.randn(2, 2)}
            store.propose(f"client-{i}", (0, 0), {"Scaffold": kept, "trainer": {"head": torch.zeros(3)}})
        store.settle((0, 0), CLIENTS)
        order = ["client-4", "client-0", "client-1", "client-5"]
        found = store.gather(order, first)
        assert found.keys() == first.keys()
        for place, client in enumerate(order):
            expected = store.get(client) or first
            for name, stacked in found["Scaffold"].items():
                assert torch.equal(stacked[place], expected["Scaffold"][name])

    def test_proposing_is_proposing_one_by_one(self, store, tmp_path):
        one = MemoryStore(CLIENTS, tmp_path)
        values = torch.randn(3, 7)
        store.propose_stacked(CLIENTS[:3], (0, 0), {"Scaffold": {"control": values}})
        for client, value in zip(CLIENTS, values, strict=False):
            one.propose(client, (0, 0), {"Scaffold": {"control": value}})
        for each in (store, one):
            each.settle((0, 0), CLIENTS)
        assert list(one.clients()) == list(store.clients()) == CLIENTS[:3]
        assert all(torch.equal(control(one, c), control(store, c)) for c in CLIENTS[:3])

    def test_strides_gradients_and_no_clients_do_not_matter(self, store):
        columns = torch.randn(7, 2, requires_grad=True)
        store.propose_stacked(CLIENTS[:2], (0, 0), {"Scaffold": {"control": columns.T}})
        store.settle((0, 0), CLIENTS)
        assert torch.equal(control(store, "client-1"), columns[:, 1])
        store.propose_stacked([], (0, 0), {"Scaffold": {"control": torch.empty(0, 7)}})
        assert store.gather([], memory(0))["Scaffold"]["control"].shape == (0, 7)

    def test_names_that_some_lack_cannot_be_stacked(self, store):
        store.propose("client-1", (0, 0), {"trainer": {"head": torch.zeros(2)}})
        store.settle((0, 0), ["client-1"])
        with pytest.raises(ConfigError, match=r"needed Scaffold/control .* found none at client 'client-1'.*caused by"):
            store.gather(CLIENTS, memory(0))


class TestMistakes:
    @pytest.mark.parametrize("wrong", [torch.zeros(8), torch.zeros(7, dtype=torch.float64), torch.zeros(1, 7)])
    def test_another_shape_or_type_is_refused_and_nothing_is_lost(self, store, wrong):
        store.propose("client-0", (0, 0), memory(3))
        with pytest.raises(ConfigError, match=r"Scaffold/control .*needed \[7\] torch.float32.*caused by Scaffold"):
            store.propose("client-0", (0, 0), {"Scaffold": {"control": wrong}})
        store.settle((0, 0), ["client-0"])
        assert control(store, "client-0").eq(3).all()

    def test_a_stranger_is_a_programmers_mistake(self, store):
        store.declare(memory(0))
        for ask in (store.get, lambda c: store.propose(c, (0, 0), memory(1)), lambda c: store.settle((0, 0), [c])):
            with pytest.raises(AssertionError, match="not in the population"):
                ask("nobody")

    def test_a_client_proposes_once(self, store):
        with pytest.raises(AssertionError, match="once"):
            store.propose_stacked(["client-0"] * 2, (0, 0), {"Scaffold": {"control": torch.ones(2, 7)}})

    def test_a_file_of_other_clients_is_refused(self, store, tmp_path):
        store.propose("client-3", (0, 0), memory(1))
        store.settle((0, 0), ["client-3"])
        store.save(tmp_path / "memory.sqlite", 1, 1)
        other = MemoryStore(["client-1", "x"])
        with pytest.raises(RunFolderError, match=r"needed one of the 2 .* found 'client-3'"):
            other.load(tmp_path / "memory.sqlite", 1)
        assert list(other.clients()) == []


def test_the_population_may_come_unsorted_or_later(store, tmp_path):
    unsorted = MemoryStore(["b", "a"])
    unsorted.propose("b", (0, 0), memory(1))
    unsorted.settle((0, 0), ["a", "b"])
    assert list(unsorted.clients()) == ["b"]
    store.enrol(["everyone"])
    store.propose("everyone", (0, 0), memory(1))
    store.settle((0, 0), ["everyone"])
    store.enrol(["everyone", "client-0"])  # nothing new
    with pytest.raises(AssertionError, match="before"):
        store.enrol(["late"])
    store.save(tmp_path / "memory.sqlite", 1, 1)
    reader = MemoryStore()
    reader.load(tmp_path / "memory.sqlite", 1)
    assert list(reader.clients()) == ["everyone"]


class TestFullDisk:
    def fill(self, monkeypatch, after=0):
        left = [after]

        def refuse(file, start, count):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)

    def test_it_is_told_and_nothing_is_lost(self, on_disk, monkeypatch, tmp_path):
        on_disk.propose("client-0", (0, 0), memory(1))
        on_disk.settle((0, 0), ["client-0"])
        on_disk.propose("client-1", (1, 0), memory(2))
        self.fill(monkeypatch)
        told = (
            rf"Scaffold/control needs 28 bytes more in {tmp_path} .*found [\d,]+ free: No space left.*free some space"
        )
        with pytest.raises(RunFolderError, match=told):
            on_disk.propose("client-0", (1, 0), memory(3))
        monkeypatch.undo()
        on_disk.settle((1, 0), ["client-0", "client-1"])
        assert control(on_disk, "client-0").eq(1).all()
        assert control(on_disk, "client-1").eq(2).all()

    def test_of_several_clients_none_is_written(self, on_disk, monkeypatch):
        stacked = {"Scaffold": {"control": torch.ones(6, 7)}}
        self.fill(monkeypatch, after=4)
        with pytest.raises(RunFolderError, match="No space left"):
            on_disk.propose_stacked(CLIENTS, (0, 0), stacked)
        on_disk.settle((0, 0), CLIENTS)
        assert list(on_disk.clients()) == []
        monkeypatch.undo()

    def test_rows_that_have_their_space_are_written_still(self, on_disk, monkeypatch):
        for round_ in (0, 1):
            on_disk.propose("client-0", (round_, 0), memory(round_))
            on_disk.settle((round_, 0), ["client-0"])
        self.fill(monkeypatch)
        on_disk.propose("client-0", (2, 0), memory(2))
        on_disk.settle((2, 0), ["client-0"])
        assert control(on_disk, "client-0").eq(2).all()

    def test_a_file_that_cannot_be_made_is_named(self, monkeypatch):
        def refuse(file, size):
            raise OSError(errno.EFBIG, "File too large")

        monkeypatch.setattr(shared, "ANONYMOUS", 0)
        monkeypatch.setattr(os, "ftruncate", refuse)
        with pytest.raises(RunFolderError, match=r"Scaffold/control needs 336 bytes .*File too large.*TMPDIR"):
            MemoryStore(CLIENTS).declare(memory(0))

    @pytest.mark.parametrize("missing", [True, False])
    def test_where_nothing_can_be_allocated_ahead_zeros_are_written(self, monkeypatch, tmp_path, missing):
        def refuse(file, start, count):
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

        monkeypatch.setattr(shared, "ANONYMOUS", 0)
        if missing:
            monkeypatch.delattr(os, "posix_fallocate", raising=False)
        else:
            monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
        made = SharedBytes(1 << 20, "a/b", tmp_path)
        made.reserve(100, 200_000)
        assert os.fstat(made.file).st_blocks * 512 >= 200_000
        made.write(100, np.full(5, 7, dtype=np.uint8))
        assert made.memory[99:106] == b"\0" + b"\7" * 5 + b"\0"


def test_a_large_table_is_a_file_that_nobody_sees(tmp_path):
    small, large = SharedBytes(shared.ANONYMOUS, "a/b", tmp_path), SharedBytes(1 << 40, "a/b", tmp_path / "to" / "be")
    assert small.file is None
    assert os.fstat(large.file).st_blocks == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs another system: one with /proc")
def test_a_million_clients_open_in_little():
    code = """
import torch
from headway.client_state.store import MemoryStore

def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024

names = tuple(f"client-{i:07}" for i in range(1_000_000))
first = {"Scaffold": {"control": torch.zeros(10_000)}}
MemoryStore(["a"]).propose("a", (0, 0), first)
before = resident()
store = MemoryStore(names)
store.declare(first)
for i in range(0, 1_000_000, 10_000):
    store.propose(names[i], (0, 0), first)
store.settle((0, 0), names[:20_000])
assert len(store.clients()) == 2
print(resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 50
