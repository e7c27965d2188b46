"""The live page: hostile texts stay texts, nothing is loaded, and in a browser it follows the run."""

import asyncio
import re
from html.parser import HTMLParser

import pytest
from boards import HOSTILE, hostile_board, rounds_of, server_board
from browser import CHROMIUM, Browser

from headway.federation.operations.live_page import SECTIONS, fragments, render_page
from headway.federation.operations.page_server import PageServer
from headway.federation.operations.status_board import StatusBoard
from headway.federation.operations.status_snapshot import ChainStatus, ClientStatus, PrivacyStatus, RoundStatus

in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: no chromium was found")


class Elements(HTMLParser):
    """The elements of a document, and the texts in it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def page_of(board):
    status = board.snapshot()
    return render_page(status, fragments(status))


def test_hostile_texts_stay_texts():
    board = hostile_board()
    found = Elements(page_of(board))
    names = [tag for tag, _ in found.tags]
    assert names.count("script") == 1
    assert names.count("style") == 1
    assert "img" not in names
    assert not [attribute for _, attributes in found.tags for attribute in attributes if attribute.startswith("on")]
    assert any(HOSTILE in text for text in found.texts)  # whole, as a reason
    for tag, attributes in found.tags:
        assert not {"src", "srcset", "action", "formaction", "background", "style"} & attributes.keys()
        if tag in ("a", "link"):
            assert attributes["href"].startswith(("#", "data:,"))


def test_no_script_or_style_but_its_own_may_run():
    page = page_of(hostile_board())
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src &#39;none&#39;; ")
    assert "unsafe" not in policy
    assert "connect-src &#39;self&#39;" in policy
    assert "http:" not in policy


def test_every_section_has_its_fragment_and_its_name():
    page = page_of(server_board([], done=0))
    for anchor, title in SECTIONS.items():
        assert f'<h2 id="{anchor}-title">{title}</h2>' in page
        assert f'data-fragment="{anchor}"' in page
    assert "No client has joined yet." in page
    assert "Calls that were not admitted: 7 without a valid identity." in page


def test_a_run_without_news_has_the_same_fragments():
    board = hostile_board()
    before = fragments(board.snapshot())
    board.wall = lambda: 1_000_060.0  # a minute later
    assert fragments(board.snapshot()) == before


def test_what_it_waits_for_and_since_when():
    found = fragments(hostile_board().snapshot())
    assert 'data-since="999960">13:46:00 UTC<' in found["state"]
    assert 'data-until="1000090">13:48:10 UTC<' in found["state"]
    assert "waiting for 2 clients" in found["spoken"]
    assert 'last contact <time data-since="999000">13:30:00 UTC</time> ago' in found["clients"]
    assert "; the round waits for it" in found["clients"]


def test_privacy_events_are_shown_where_there_are_some():
    board = server_board([])
    assert "no privacy budget" in fragments(board.snapshot())["privacy"]
    board.privacy = PrivacyStatus(
        delta=1e-5,
        budgets={"client": 8.0},
        sampling="independent draws with probability 0.1",
        releases=(("delta", "gaussian", "1.1", "0.05", "one client", "at the server"),),
        others=(("the names of each cohort", "no noise", "the journal"),),
    )
    shown = fragments(board.snapshot())["privacy"]
    assert "independent draws with probability 0.1" in shown
    assert "the names of each cohort" in shown
    assert "<svg" not in shown
    for round_ in (1, 2):
        board.history.add(RoundStatus(round=round_, epsilon={"client": 1.5 * round_}))
    shown = fragments(board.snapshot())["privacy"]
    assert "<svg" in shown
    for text in ("Epsilon over rounds", "<td>3</td>", "<td>8</td>", "<td>5</td>"):  # spent, budget, left
        assert text in shown


def test_many_clients_are_cut_and_the_page_says_so():
    many = [ClientStatus(name=f"c{each:04}", presence="connected") for each in range(800)]
    found = fragments(server_board(many).snapshot())["clients"]
    assert found.count("<tr>") == 201
    assert "200 of 800 clients" in found


# in a browser ----------------------------------------------------------------------------------------------


def in_tab(board, profile, steps):
    """Opens the page of a board in a browser, and does the steps there: `await steps(browser, server)`."""
    server = PageServer(board)
    server.start()

    async def tab():
        async with Browser.started(profile) as browser:
            await browser.open(server.url)
            await steps(browser, server)
            assert browser.console == []
            own = server.url.partition("/?")[0]
            assert all(address.startswith((own, "data:,")) for address in browser.addresses)

    try:
        asyncio.run(tab())
    finally:
        server.stop()


@in_a_browser
def test_it_follows_a_run_to_its_end(tmp_path):
    board = StatusBoard("simulation", "mine", 3)
    board.describe("accuracy", ChainStatus(), 3)
    board.set_state("running")
    board.set_phase("training", "round 1")

    async def steps(browser, server):
        assert server.access.token not in await browser.value("location.href")
        assert server.access.token not in await browser.value("document.documentElement.outerHTML")
        assert await browser.value("document.cookie") == ""
        await browser.until("document.querySelector('.state').textContent.includes('Round 1 of 3: training')")
        for report in rounds_of(3):
            board.add_round(report)
        await browser.until("document.querySelectorAll('#learning svg path.line').length >= 1")
        await browser.until("document.querySelector('progress.rounds').value === 3")
        assert await browser.value("document.querySelectorAll('#clients tbody tr').length") == 3
        board.set_state("finished")
        await browser.until("document.querySelector('.badge').textContent === 'finished'")
        await browser.until("document.title.startsWith('3/3 finished')")
        await browser.until("document.getElementById('spoken').textContent.startsWith('The run has finished')")
        assert await browser.value("document.getElementById('lost').hidden")

    in_tab(board, tmp_path, steps)


@in_a_browser
def test_hostile_texts_do_nothing_in_a_browser(tmp_path):
    board = hostile_board()

    async def steps(browser, server):
        await browser.value("window.alert = () => { window.ran = true; }")
        board.add_event("late", HOSTILE + "2", HOSTILE)
        await browser.until("document.getElementById('events').textContent.includes('onerror=alert(1)>2')")
        assert not await browser.value("window.ran")
        assert await browser.value("document.querySelectorAll('img, script').length") == 1

    in_tab(board, tmp_path, steps)


@in_a_browser
def test_keyboard_screen_reader_and_narrow_windows(tmp_path):
    board = hostile_board()

    async def steps(browser, server):
        names = await browser.names()
        for each in (
            ("banner", ""),
            ("main", ""),
            ("navigation", "Sections"),
            ("button", "Pause"),
            ("button", "Dark or light"),
            ("status", ""),
            ("progressbar", "rounds done"),
            ("group", "table of clients"),
            ("image", "accuracy over rounds"),
            ("region", "Clients"),
        ):
            assert each in names, each
        await browser.press("Tab", 9)
        assert await browser.value("document.activeElement.textContent") == "Skip to the clients"
        stops = []
        for _ in range(40):
            await browser.press("Tab", 9)
            stops.append(await browser.value("document.activeElement.outerHTML.slice(0, 120)"))
        assert any("details" in each or "<summary>" in each for each in stops)
        assert any("table of clients" in each for each in stops)
        # what was opened and focused stays when the page changes
        await browser.value("document.querySelector('#learning details').open = true")
        await browser.value("document.querySelector('#learning summary').focus()")
        for report in list(rounds_of(4))[3:]:
            board.add_round(report)
        await browser.until("document.querySelector('progress.rounds').value === 4")
        assert await browser.value("document.querySelector('#learning details').open")
        assert await browser.value("document.activeElement.textContent") == "As a table"
        await browser.value("document.getElementById('pause').focus()")
        await browser.press("Enter", 13)
        assert await browser.value("document.getElementById('pause').getAttribute('aria-pressed')") == "true"
        for width, dark in ((1200, False), (1200, True), (360, False), (360, True)):
            await browser.look(width, 800, dark)
            assert await browser.value("document.documentElement.scrollWidth <= innerWidth"), width
            paper = await browser.value("getComputedStyle(document.body).backgroundColor")
            assert paper == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")

    in_tab(board, tmp_path, steps)


@in_a_browser
def test_a_lost_connection_is_shown_and_taken_up_again(tmp_path):
    board = server_board([], done=2)

    async def steps(browser, server):
        await browser.until("document.querySelector('progress.rounds').value === 2")
        await browser.until("/^\\d+ (s|min|h|d)/.test(document.querySelector('time').textContent)")
        port = int(server.url.split(":")[2].partition("/")[0])
        server.stop()
        await browser.until("!document.getElementById('lost').hidden")
        again = PageServer(board, port)
        object.__setattr__(again.access, "token", server.access.token)
        again.start()
        try:
            await browser.until("document.getElementById('lost').hidden")
        finally:
            again.stop()
        browser.console.clear()  # of the connection that was refused

    in_tab(board, tmp_path, steps)
