"""Vectors in mapped files: what they hold, and what becomes of their files."""

import errno
import os

import pytest
import torch

from headway.core.errors import RunFolderError
from headway.server.vector_files import VectorFiles


def test_vectors_are_zeros_whose_files_are_removed_at_once(tmp_path):
    files = VectorFiles(tmp_path / "made")
    wide, small = files.vector(5), files.vector(3, torch.float32)
    assert (wide.dtype, small.dtype) == (torch.float64, torch.float32)
    assert wide.tolist() == [0.0] * 5
    wide += 2.0
    small[1] = 7.0
    assert (wide.tolist(), small.tolist()) == ([2.0] * 5, [0.0, 7.0, 0.0])
    assert list((tmp_path / "made").iterdir()) == []
    assert files.vector(0, torch.float32).tolist() == []


def test_a_file_that_the_system_keeps_is_removed_later(tmp_path, monkeypatch):
    files = VectorFiles(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError()))
        vector = files.vector(3)
        files.close()
        VectorFiles(tmp_path).clear()
        assert len(list(tmp_path.iterdir())) == 1
    assert vector.tolist() == [0.0, 0.0, 0.0]
    files.close()
    assert list(tmp_path.iterdir()) == []


def test_what_another_process_has_left_is_removed_and_nothing_else(tmp_path):
    for name in ("12-0.vector", "journal.sqlite"):
        (tmp_path / name).write_bytes(b"1234")
    VectorFiles(tmp_path).clear()
    assert [path.name for path in tmp_path.iterdir()] == ["journal.sqlite"]
    VectorFiles(tmp_path / "missing").clear()


def test_a_full_disk_refuses_when_a_vector_is_made(tmp_path, monkeypatch):
    """And not when a page of it is written, which would end the process."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(RunFolderError, match=r"\.vector cannot be written: No space left on device\. What was saved"):
        VectorFiles(tmp_path).vector(10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, None])
def test_a_file_system_that_cannot_take_room_makes_vectors_all_the_same(tmp_path, monkeypatch, code):
    def unable(*_):
        raise OSError(code, "not here")

    if code is None:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    else:
        monkeypatch.setattr(os, "posix_fallocate", unable, raising=False)
    assert VectorFiles(tmp_path).vector(10).tolist() == [0.0] * 10
