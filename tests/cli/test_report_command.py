"""`headway report` as a person runs it, its refusals, and the page in a browser."""

import html
import http.server
import json
import re
import shutil
import sqlite3
import subprocess
import threading

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
CLOCK = ["clock.preset=hospitals", "clock.crash=0.2", "algorithm.quorum.count=2", "algorithm.quorum.late=keep"]
PLAIN = """\
[run]
rounds = 2
[data]
source = "hospitals"
[model]
name = "logistic"
"""


@pytest.fixture
def headway(headway, tmp_path):
    """Runs a command in a folder with a run in it, in this process; gives its exit code, output and errors."""
    (tmp_path / "mine.toml").write_text(PLAIN)
    code, out, _ = headway("run", "mine.toml", "--out", "run")
    assert code == 0
    assert "headway report run" in out
    return headway


def test_a_report_is_written_beside_the_run_and_may_be_written_again(headway, tmp_path):
    code, out, err = headway("report", "run")
    path = tmp_path / "run" / "report.html"
    assert (code, err) == (0, "")
    assert re.match(r"run/report\.html: [\d.]+ kB; open it in a browser\.", out.splitlines()[-1])
    first = path.read_bytes()
    assert headway("report", "run")[0] == 0
    assert path.read_bytes() == first
    assert headway("resume", "run", "--rounds", "3")[0] == 0  # the run is still a run


def test_where_to_write(headway, tmp_path):
    assert headway("report", "run", "--out", "new/page.html")[0] == 0
    assert (tmp_path / "new" / "page.html").read_text().startswith("<!doctype html>")
    headway("run", "mine.toml", "--out", "other", "--seed", "1")
    code, out, _ = headway("report", "run", "other")
    assert code == 0
    assert out.splitlines()[-1].startswith("report.html: ")


def test_a_comparison_names_the_command_that_reports_it(headway, tmp_path):
    _, out, _ = headway("compare", "mine.toml", "--methods", "fedavg,scaffold", "--seeds", "2", "--workers", "1")
    (command,) = re.findall(r"headway (report \S+)", out)
    code, out, _ = headway(*command.split())
    page = (tmp_path / "comparisons" / "mine" / "report.html").read_text()
    results = json.loads((tmp_path / "comparisons" / "mine" / "results.json").read_text())
    assert code == 0
    assert "over rounds 1 to 2" in out
    assert "leeway over rounds" in page  # from the journals of its runs
    assert "seconds a round" in page
    assert len(results["sentences"]) == 2  # scaffold sends twice as much
    for sentence in results["sentences"]:
        assert html.escape(sentence, quote=False).replace("'", "&#39;") in page


def test_tuning_and_bounds_are_told(headway, tmp_path):
    (tmp_path / "tuned.toml").write_text(PLAIN + "[compare.grid]\n'algorithm.trainer.lr' = [0.01, 0.1]\n")
    options = ["--methods", "fedavg,fedprox", "--seeds", "2", "--workers", "1", "--bounds", "--out", "bounded"]
    code, _, err = headway("compare", "tuned.toml", *options)
    assert (code, err) == (0, "")
    assert headway("report", "bounded")[0] == 0
    page = (tmp_path / "bounded" / "report.html").read_text()
    assert re.search(r"Tuned on held-out training examples: fedavg: .*lr 0\.0?1, best of 2", page)
    assert "Each client alone reaches" in page
    gaps = json.loads((tmp_path / "bounded" / "results.json").read_text())["gaps"]
    for gap in gaps:
        cells = "".join(f"<td>{gap[name]:.4f}</td>" for name in ("alone", "federated", "pooled"))
        assert f'<th scope="row">{gap["client"]}</th>{cells}' in page


def test_as_json(headway, tmp_path):
    code, out, _ = headway("report", "run", "--json")
    record = json.loads(out)
    assert code == 0
    assert record["file"] == "run/report.html"
    assert record["bytes"] == (tmp_path / "run" / "report.html").stat().st_size
    assert record["methods"] == ["fedavg"]


def damage(path, at=100):
    data = bytearray(path.read_bytes())
    data[at : at + 3000] = b"\xff" * 3000
    path.write_bytes(data)


def empty(path):
    connection = sqlite3.connect(path)
    for table in ("rounds", "clients", "metrics"):
        connection.execute(f"DELETE FROM {table}")
    connection.commit()
    connection.close()


def words_for_numbers(path):
    connection = sqlite3.connect(path)
    connection.execute("UPDATE rounds SET train_loss = 'low'")
    connection.commit()
    connection.close()


def other_tables(path):
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE rounds (round INTEGER)")
    connection.close()


MISTAKES = {
    "nothing there": (lambda run: shutil.rmtree(run), r"run does not exist; name a folder"),
    "no run": (lambda run: (run / "run.json").unlink(), r"run is neither a run nor a comparison.*run\.json"),
    "no journal": (lambda run: (run / "journal.sqlite").unlink(), r"journal\.sqlite is missing.*run it first"),
    "empty journal": (lambda run: empty(run / "journal.sqlite"), r"journal\.sqlite holds no finished round"),
    "no database": (lambda run: (run / "journal.sqlite").write_text("x" * 999), r"journal\.sqlite is damaged"),
    "damaged": (lambda run: damage(run / "journal.sqlite"), r"journal\.sqlite is damaged.*restore it"),
    "words": (lambda run: words_for_numbers(run / "journal.sqlite"), r"journal\.sqlite is damaged.*low"),
    "other tables": (lambda run: other_tables(run / "journal.sqlite"), r"journal\.sqlite is damaged.*no such column"),
    "no identity": (lambda run: (run / "run.json").write_text("{"), r"run\.json is damaged"),
    "other identity": (lambda run: (run / "run.json").write_text('{"format": 1}'), r"run\.json is damaged.*seed"),
    "odd identity": (
        lambda run: (run / "run.json").write_text('{"format": 1, "seed": 0, "algorithm": {"chain": [3]}}'),
        r"run\.json is damaged",
    ),
    "no run file": (lambda run: (run / "run.toml").write_text("= 3"), r"run\.toml is damaged"),
    "odd run file": (lambda run: (run / "run.toml").write_text("task = 3"), r"run\.toml is damaged"),
    "no results": (lambda run: (run / "results.json").write_text("[1"), r"results\.json is damaged"),
    "other results": (lambda run: (run / "results.json").write_text("[1]"), r"results\.json is damaged"),
    "a page of another's": (lambda run: (run / "report.html").write_text("mine"), r"report\.html exists already"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(headway, tmp_path, mistake):
    do, words = MISTAKES[mistake]
    do(tmp_path / "run")
    code, out, err = headway("report", "run")
    assert (code, out) == (1, "")
    assert re.match(f"error: .*{words}", err)
    assert len(err.splitlines()) == 1


# in a browser ----------------------------------------------------------------------------------------------


class Proxy:
    """Serves one page at every address, and remembers what was asked for: all of the browser's traffic."""

    def __init__(self, page: bytes) -> None:
        asked = self.asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(page)

            def do_CONNECT(self):
                asked.append(self.path)
                self.send_error(403)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def browse(page: bytes, folder):
    """The page's elements after its script ran, what the console said, and the addresses on its own hosts."""
    proxy = Proxy(page)
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
        "--v=0", f"--user-data-dir={folder}",
        f"--proxy-server=127.0.0.1:{proxy.server.server_port}", "--proxy-bypass-list=<-loopback>",
        "--virtual-time-budget=3000", "--dump-dom", "http://page.test/report.html",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    finally:
        proxy.close()
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, console, [address for address in proxy.asked if ".test" in address]


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: no chromium was found")
def test_in_a_browser_it_loads_nothing_and_says_no_error(headway, tmp_path):
    headway("report", "run")
    dom, console, asked = browse((tmp_path / "run" / "report.html").read_bytes(), tmp_path / "profile")
    assert console == []
    assert asked == ["http://page.test/report.html"]
    assert "<title>mine - Headway report</title>" in dom
    assert dom.count('aria-pressed="true"') == 1  # made by the script, so it ran
    leaking = b"<!doctype html><title>x</title><img src='http://other.test/x.png'><script>console.error('no')</script>"
    _, console, asked = browse(leaking, tmp_path / "profile-2")  # the measure sees what it is to see
    assert len(console) == 1
    assert "http://other.test/x.png" in asked


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: no chromium was found")
def test_a_page_about_a_clock_in_a_browser(headway, tmp_path):
    sets = [word for change in CLOCK for word in ("--set", change)]
    headway("compare", "mine.toml", "--methods", "fedavg,fedprox", "--workers", "1", "--out", "timed", *sets)
    assert headway("report", "timed")[0] == 0
    dom, console, asked = browse((tmp_path / "timed" / "report.html").read_bytes(), tmp_path / "profile")
    assert console == []
    assert asked == ["http://page.test/report.html"]
    assert dom.count('aria-pressed="true"') == 2
    (section,) = re.findall(r'<section id="clock".*?</section>', dom, re.DOTALL)
    assert section.count("<svg class") >= 6  # at work, participation, time, bytes, and a timeline for each method
    assert section.count('class="counted"') >= 2
    assert "over simulated time" in dom
