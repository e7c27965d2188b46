"""Files of secrets: their mode, and that a write is whole or not at all."""

import os
import stat

import pytest

from headway.federation.identity.private_files import (
    IdentityError,
    make_folder,
    read_private,
    write_private,
    write_public,
)


def test_a_secret_is_readable_by_its_owner_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        write_private(tmp_path / "secret", b"x")
        make_folder(tmp_path / "folder")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700
    assert read_private(tmp_path / "secret") == b"x"


def test_a_file_that_was_readable_by_others_is_replaced_by_one_that_is_not(tmp_path):
    write_public(tmp_path / "secret", b"old")
    write_private(tmp_path / "secret", b"new")
    assert read_private(tmp_path / "secret") == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_secret_that_others_can_read_is_refused(tmp_path, mode):
    write_private(tmp_path / "secret", b"x")
    (tmp_path / "secret").chmod(mode)
    with pytest.raises(IdentityError, match="chmod 600"):
        read_private(tmp_path / "secret")


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    def fails(_):
        raise OSError(28, "No space left on device")

    write_private(tmp_path / "secret", b"old")
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(IdentityError, match="No space left"):
        write_private(tmp_path / "secret", b"new")
    assert read_private(tmp_path / "secret") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_a_missing_or_unreadable_file_is_one_sentence(tmp_path):
    with pytest.raises(IdentityError, match="is missing"):
        read_private(tmp_path / "none")
    with pytest.raises(IdentityError, match="cannot write"):
        write_private(tmp_path / "none" / "secret", b"x")
    (tmp_path / "file").write_text("")
    with pytest.raises(IdentityError, match="cannot make the folder"):
        make_folder(tmp_path / "file" / "folder")
