"""Settings for every test: repeatable examples, one thread, and the helpers of `conformance` on the path."""

import sys

import pytest
import torch
from hypothesis import settings

from headway import cli

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50, print_blob=False)
settings.load_profile("repeatable")
torch.set_num_threads(1)


@pytest.fixture
def headway(tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder, in this process; gives its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def headway(*arguments):
        monkeypatch.setattr(sys, "argv", ["headway", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return headway


@pytest.fixture(autouse=True, scope="session")
def _plans_of_their_own(tmp_path_factory):
    """No test reads or writes the plans that this machine remembers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
