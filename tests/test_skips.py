"""What may be skipped, and for which reasons, is decided in conftest.py."""

from pathlib import Path

pytest_plugins = ["pytester"]

TESTS = """
import pytest

@pytest.mark.skipif(True, reason="needs a GPU")
def test_allowed(): ...

@pytest.mark.skipif(True, reason="no time")
def test_refused(): ...

def test_within():
    pytest.skip("the package is not installed")

def test_missing():
    pytest.importorskip("no_such_package")

@pytest.mark.xfail(reason="known")
def test_expected():
    assert False
"""


def test_only_a_gpu_a_browser_or_another_system_is_a_reason(pytester):
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text())
    pytester.makepyfile(TESTS)
    pytester.makepyfile(test_whole_file="import pytest\npytest.importorskip('no_such_package')")
    done = pytester.runpytest_inprocess("-rs", "-p", "no:cacheprovider", "--continue-on-collection-errors")
    done.assert_outcomes(skipped=1, failed=2, errors=2, xfailed=1)
    done.stdout.fnmatch_lines(["*It would be skipped (Skipped: no time)*", "SKIPPED*needs a GPU*"])
