"""The lock on a run folder: one process at a time, released however a process ends, and without `fcntl` on Windows."""

import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from headway.core.errors import RunFolderError
from headway.observe import folder_lock
from headway.observe.folder_lock import LOCK, FolderLock, sync_folder
from headway.observe.run_folder import RunFolder


def test_a_second_lock_is_refused_until_the_first_is_closed(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(BlockingIOError):
        FolderLock(tmp_path)
    lock.close()
    lock.close()
    FolderLock(tmp_path).close()
    with pytest.raises(FileNotFoundError):
        FolderLock(tmp_path / "none")


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from headway.observe.folder_lock import FolderLock\n"
        "lock = FolderLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    command, pipes = [sys.executable, "-c", code, str(tmp_path)], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError):
            FolderLock(tmp_path)
        os.kill(process.pid, signal.SIGKILL)
    FolderLock(tmp_path).close()


def test_windows_locks_a_file_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for `msvcrt`, whose locks are those of files."""
    held: dict[int, Path] = {}

    def locking(handle: int, mode: int, count: int) -> None:
        assert (mode, count) == (2, 1)
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if path in held.values():
            raise PermissionError("held")
        held[handle] = path

    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(locking=locking, LK_NBLCK=2))
    monkeypatch.setattr(folder_lock, "sys", types.SimpleNamespace(platform="win32"))
    monkeypatch.setitem(sys.modules, "fcntl", None)  # an import of it fails
    lock = FolderLock(tmp_path)
    assert list(held.values()) == [tmp_path / LOCK]
    with pytest.raises(BlockingIOError):
        FolderLock(tmp_path)
    lock.close()
    held.clear()
    FolderLock(tmp_path).close()
    sync_folder(tmp_path / "none")  # nothing to do


def test_the_package_is_imported_without_fcntl() -> None:
    code = "import sys; sys.modules['fcntl'] = None; import headway, headway.observe.run_folder"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_that_never_got_anywhere_makes_way(tmp_path: Path) -> None:
    place = tmp_path / "run"
    first = RunFolder.create(place, {"versions": {}})
    with pytest.raises(RunFolderError, match="in use by another process"):
        RunFolder.create(place, {"versions": {}})
    first.close()
    (place / LOCK).touch()
    second = RunFolder.create(place, {"versions": {"headway": "2"}})
    assert second.identity["versions"] == {"headway": "2"}
    second.close()
