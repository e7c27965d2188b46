"""The token of the status: kept for its owner alone, never in a cookie, and compared as a whole."""

import stat

import pytest

from headway.core.errors import RunFolderError
from headway.federation.operations.page_access import TOKEN_FILE, PageAccess


def test_a_run_folder_keeps_its_token(tmp_path):
    access = PageAccess.of(tmp_path)
    assert PageAccess.of(tmp_path) == access
    assert stat.S_IMODE((tmp_path / TOKEN_FILE).stat().st_mode) == 0o600
    assert len(access.token) >= 40
    assert access.url("https://host:1/") == f"https://host:1/?token={access.token}"
    assert access.token not in repr(access)


def test_who_is_admitted():
    access, other = PageAccess(), PageAccess()
    name, value = access.cookie
    assert access.admits({"Authorization": f"Bearer {access.token}"})
    assert access.admits({"Authorization": f"bearer {access.token}"})
    assert access.admits({"Cookie": f"a=b; {name}={value}"})
    for headers in (
        {},
        {"Authorization": f"Bearer {other.token}"},
        {"Authorization": f"Basic {access.token}"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer \u00e9"},
        {"Cookie": f"{name}={value[:-1]}"},
        {"Cookie": f"{name}={access.token}"},
        {"Cookie": "\x00;;;"},
        {"Cookie": "{}={}".format(*other.cookie)},
        {"Headway-Node": "north"},  # the identity of a client is no access
    ):
        assert not access.admits(headers), headers


def test_the_cookie_does_not_give_the_token_away():
    access = PageAccess()
    assert access.token not in "".join(access.cookie)
    assert not access.is_token(access.cookie[1])


@pytest.mark.parametrize("content", ["", "short", "\u00e9" * 50])
def test_a_file_without_a_token_is_refused(tmp_path, content):
    (tmp_path / TOKEN_FILE).write_text(content)
    (tmp_path / TOKEN_FILE).chmod(0o600)
    with pytest.raises(RunFolderError, match="token"):
        PageAccess.of(tmp_path)


def test_a_file_that_others_may_read_is_refused(tmp_path):
    PageAccess.of(tmp_path)
    (tmp_path / TOKEN_FILE).chmod(0o644)
    with pytest.raises(RunFolderError, match="readable by others"):
        PageAccess.of(tmp_path)


def test_a_folder_that_is_missing_is_a_sentence(tmp_path):
    with pytest.raises(RunFolderError, match=r"status-token cannot be used: cannot write .*: No such file"):
        PageAccess.of(tmp_path / "nothing")
