"""Settings for every test: repeatable examples, one thread, and the helpers of `conformance` on the path."""

import functools
import gc
import random
import re
import sys

import numpy as np
import pytest
import torch
import typer.main
from hypothesis import settings

from headway.cli import main as cli

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50, print_blob=False)
settings.load_profile("repeatable")
torch.set_num_threads(1)
gc.disable()  # while tests are found: it would go through a million objects again and again, all of which stay

LONG = """
test_benchmarks vectorized/test_compiled_gradients test_commands engines/test_ray_engine
engines/test_process_engine engines/test_devices_in_runs audit/test_canaries test_main_job test_static
federation/test_federation_demo federation/test_fuzz test_engines_agree cli/test_partition_command
samplers/test_sampler_runs vectorized/test_batched_sgd engines/test_model_versions run/test_signals
federation/test_processes federation/test_reported_troubles test_trainers experiment/test_comparison
cli/test_report_command federation/relay/test_forwarded_exchanges cases/test_going_on experiment/test_replay
federation/test_deploy_page test_extending
"""  # the files of tests that take longest, the longest first
MAY_BE_SKIPPED = re.compile(r"(Skipped: )?needs (a GPU|a browser|another system)")


def _only_for_a_reason(report):
    """A test that is skipped for a reason that is not one of these has failed: what it needs belongs into "dev"."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not MAY_BE_SKIPPED.match(reason):
            report.outcome = "failed"
            report.longrepr = (
                f"It would be skipped ({reason}), and only what needs a GPU, a browser or another system may be: "
                'install what it needs, as "make test" does (pip install -e ".[dev]").'
            )
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return _only_for_a_reason((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    _draws_from_the_start()
    return _only_for_a_reason((yield))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    _draws_from_the_start()


def _draws_from_the_start():
    """What a test draws without a seed is the same whatever this process has done before, and whatever runs beside it:
    which files a worker of pytest-xdist is given is a matter of time.
    """
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file():
    """Doctests are in src: here they are not looked for."""
    return [found for found in (yield) if type(found) is pytest.Module]


def pytest_configure(config):
    """Workers of pytest-xdist take the files in the order in which they are found, see `LONG`."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Workers of pytest-xdist must find the same tests: a name with an address in it, or drawn numbers, differs.

    The files that take the longest come first, so that no worker is left alone with one of them at the end.
    """
    places = {f"tests/{name}.py": place for place, name in enumerate(LONG.split())}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))
    for item in items:
        if " at 0x" in item.nodeid or "tensor(" in item.nodeid:
            raise pytest.UsageError(f"give {item.nodeid.partition('[')[0]} ids that are the same in every process")


def pytest_collection_finish():
    """What is there when the first test begins is not garbage, and is not looked at again."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def headway(tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder, in this process; gives its exit code, output and errors.

    A comparison has no worker processes, which take seconds to begin, unless it says how many.
    """
    monkeypatch.chdir(tmp_path)

    def headway(*arguments):
        if arguments[:1] == ("compare",) and "--workers" not in arguments:
            arguments += ("--workers", 1)
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


@pytest.fixture(autouse=True, scope="session")
def _one_tree_of_commands():
    """The commands and their options are read from the functions once, and not for every command that a test runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield
