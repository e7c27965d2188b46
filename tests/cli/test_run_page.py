"""`headway run --watch`: the page exists while the run does, and shows how it ended."""

import json
import re
import urllib.request

import pytest
from toys import blobs, linear_task

import headway as hw
from headway.cli import run_page
from headway.federation.operations.page_server import PageServer
from headway.federation.operations.run_watch import RunWatch

PLAIN = """\
[run]
rounds = 3
[data]
source = "hospitals"
[model]
name = "logistic"
"""
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture
def ends(monkeypatch):
    """The last state of each page, and what was served of it when it ended."""
    found = []

    def stop(server, before=PageServer.stop):
        status = server.board.snapshot()
        if server._thread is not None:
            bearer = {"Authorization": f"Bearer {server.access.token}"}
            address = server.url.partition("/?")[0] + "/v1/status"
            with OPENER.open(urllib.request.Request(address, headers=bearer), timeout=60) as response:
                assert json.load(response)["round"] == status.round
        found.append(status)
        before(server)

    monkeypatch.setattr(PageServer, "stop", stop)
    return found


def test_a_run_is_watched_to_its_end(headway, tmp_path, ends):
    (tmp_path / "mine.toml").write_text(PLAIN)
    code, out, err = headway("run", "mine.toml", "--out", "run", "--watch")
    assert (code, err) == (0, "")
    assert re.search(r"^  watch   http://127\.0\.0\.1:\d+/\?token=[\w-]{43}$", out, re.MULTILINE)
    (status,) = ends
    assert (status.kind, status.name, status.state, status.round) == ("simulation", "mine", "finished", 3)
    assert status.population == 4
    assert [each.round for each in status.history] == [1, 2, 3]
    assert status.metric in status.metrics
    assert status.chain.rows
    code, *_ = headway("resume", "run", "--rounds", "5", "--watch")
    assert code == 0
    assert [each.round for each in ends[1].history] == [1, 2, 3, 4, 5]
    assert ends[1].totals.counted == 20
    assert ends[1].history[:3] == status.history  # as the journal holds them


def test_the_weights_are_those_of_a_run_without_a_page(headway, tmp_path, ends):
    (tmp_path / "mine.toml").write_text(PLAIN)
    headway("run", "mine.toml", "--out", "plain")
    headway("run", "mine.toml", "--out", "watched", "--watch")
    one, two = ((tmp_path / name / "checkpoints").glob("*.safetensors") for name in ("plain", "watched"))
    assert [path.name for path in sorted(one)] == [path.name for path in sorted(two)]
    headway("export", "plain", "--out", "one.safetensors")
    headway("export", "watched", "--out", "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_json_has_the_address_first(headway, tmp_path, ends):
    (tmp_path / "mine.toml").write_text(PLAIN)
    _, out, _ = headway("run", "mine.toml", "--out", "run", "--watch", "--json")
    first, *rest = map(json.loads, out.splitlines())
    assert first["event"] == "watch"
    assert [each["event"] for each in rest] == ["round"] * 3 + ["done"]


def test_a_run_that_fails_shows_why(headway, tmp_path, ends):
    (tmp_path / "mine.toml").write_text(PLAIN + "[algorithm.trainer]\nlr = 1e30\n")
    code, _, err = headway("run", "mine.toml", "--out", "run", "--watch")
    assert code == 1
    (status,) = ends
    assert status.state == "failed"
    assert status.reason[:60] in err


def test_no_page_without_the_option(headway, tmp_path, ends):
    (tmp_path / "mine.toml").write_text(PLAIN)
    _, out, _ = headway("run", "mine.toml", "--out", "run")
    assert "watch" not in out
    assert ends == []


def test_a_port_in_use_leaves_no_folder(headway, tmp_path, ends):
    (tmp_path / "mine.toml").write_text(PLAIN)
    page = run_page.ServedPage("x", 1, 0)
    port = page.watch.server.url.split(":")[2].partition("/")[0]
    code, _, err = headway("run", "mine.toml", "--out", "run", "--watch-port", port)
    page.end(None)
    assert code == 1
    assert err.count("\n") == 1
    assert f"port {port}" in err
    assert not (tmp_path / "run").exists()


def test_an_interrupted_run_is_stopped(ends):
    page = run_page.ServedPage("mine", 3, 0)
    page.end(KeyboardInterrupt())
    assert ends[0].state == "stopped"
    assert hw.Observer in type(page.observers[0]).__mro__


def test_a_run_in_python(ends):
    watch = RunWatch("mine", rounds=2)
    run = hw.Run(
        hw.recipes.fedavg(trainer=hw.LocalSGD(lr=0.1, batch_size=4)),
        blobs(),
        linear_task(),
        rounds=2,
        observers=[watch.observer],
    )
    with watch.serving(run) as url:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=\S+", url)
        reports = list(run)
    assert (ends[0].state, ends[0].round) == ("finished", len(reports))
    watch = RunWatch("mine", rounds=2)
    run = hw.Run(
        hw.recipes.fedavg(trainer=hw.LocalSGD(lr=0.1, batch_size=4)),
        blobs(),
        linear_task(),
        rounds=2,
        observers=[watch.observer],
    )
    with pytest.raises(KeyError), watch.serving(run):
        raise KeyError("mine")
    assert (ends[1].state, ends[1].reason) == ("failed", "KeyError: 'mine'")
