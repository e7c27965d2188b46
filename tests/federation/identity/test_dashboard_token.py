"""The token of the dashboard: where it is looked for, and that it stays a secret."""

import stat

import pytest

from headway.federation.identity.dashboard_token import COOKIE, DashboardToken
from headway.federation.identity.private_files import IdentityError


def test_a_folder_has_one_token(tmp_path):
    token = DashboardToken.of(tmp_path)
    assert DashboardToken.of(tmp_path).header() == token.header()
    assert stat.S_IMODE((tmp_path / "dashboard.token").stat().st_mode) == 0o600
    (tmp_path / "dashboard.token").chmod(0o644)
    with pytest.raises(IdentityError, match="readable by others"):
        DashboardToken.of(tmp_path)


def test_the_token_is_a_header_a_cookie_or_in_the_address(tmp_path):
    token = DashboardToken.of(tmp_path)
    secret = token.url("https://x/").partition("?token=")[2]
    assert token.url("https://x/") == f"https://x/?token={secret}"
    assert token.admits(token.header())
    assert token.admits({}, {"token": secret})
    assert token.admits({"Cookie": f"a=b; {token.cookie().partition(';')[0]}"})


def test_anything_else_is_not_admitted(tmp_path):
    token = DashboardToken.of(tmp_path)
    secret = token.url("").partition("?token=")[2]
    for headers, query in (
        ({}, None),
        ({}, {"token": ""}),
        ({"Authorization": "Bearer "}, {}),
        ({"Authorization": f"Bearer {secret}x"}, {}),
        ({"Cookie": f"{COOKIE}={secret[:-1]}"}, {}),
        ({"Cookie": f"other={secret}"}, {}),
        ({"Cookie": ";;=;\x00"}, {}),
        ({}, {"token": "ü"}),
    ):
        assert not token.admits(headers, query)


def test_the_cookie_is_not_for_scripts_or_other_sites(tmp_path):
    cookie = DashboardToken.of(tmp_path).cookie()
    assert {"HttpOnly", "SameSite=Strict", "Secure"} <= {part.strip() for part in cookie.split(";")}
    assert "Secure" not in DashboardToken.of(tmp_path).cookie(secure=False)


def test_the_token_is_not_printed(tmp_path):
    token = DashboardToken.of(tmp_path)
    assert token.url("").partition("?token=")[2] not in f"{token!r} {token}"
