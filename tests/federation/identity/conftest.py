"""An authority with a server and two hospitals, made once for the tests of identity."""

import shutil

import pytest

from headway.federation.identity.authority import Authority


@pytest.fixture(scope="session")
def issued_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("identities")
    authority = Authority.create(folder / "ca")
    authority.issue("server", folder / "server", hosts=("localhost", "127.0.0.1"))
    for name in ("cleveland", "Zürich"):
        authority.issue(name, folder / name)
    authority.close()
    return folder


@pytest.fixture
def folders(issued_once, tmp_path):
    """Folders of the authority (`ca`), the server and two nodes, for one test to change."""
    shutil.copytree(issued_once, tmp_path / "ids")
    return tmp_path / "ids"
