"""The page of a grid of rules and attacks."""

import asyncio
import html
import re

import pytest
from experiment.grid_results import grid_facts, grid_result
from federation.browser import CHROMIUM, Browser

from headway.experiment.attack_grid_section import MEAN, NO_ATTACK
from headway.experiment.grid_result import Cell, grid_sentence
from headway.reports.attack_page import render_attacks
from headway.reports.attack_tables import clients_tables, value_tables

SETTINGS = ("iid, FedAvg clients", "iid, ECGR clients")
FACTS = grid_facts(
    name="<mine>", seeds=2, kinds=("FedAvg", "ECGR"), from_round=4, left_out=("Bulyan is left out: 4f + 3 > 7",)
)


def values(better=0.0):
    return {
        (rule, attack, setting): [value + shift, value + shift + 0.02 + shift]
        for setting, shift in zip(SETTINGS, (0.0, better), strict=True)
        for (rule, attack), value in {
            (MEAN, NO_ATTACK): 0.9,
            (MEAN, "Backdoor"): 0.2,
            ("NNM+Krum", NO_ATTACK): 0.85,
            ("NNM+Krum", "Backdoor"): 0.8,
        }.items()
    }


def page(failed=(), facts=FACTS):
    figures = {key: {"Backdoor": 0.123 if key[0] == MEAN else 0.0456} for key in values()}
    return render_attacks(grid_result(values(0.01), failed=failed, figures=figures), facts)


def test_the_page_begins_with_the_sentence_and_loads_nothing():
    text = page()
    assert text == page()
    plain = html.unescape(text)
    sentence = grid_sentence(grid_result(values(0.01)), FACTS)
    assert sentence.startswith("Switch on NNM+Krum: with 2 of 7 clients attacking")
    assert plain.index(sentence) < plain.index("<main>")
    assert "&lt;mine&gt;" in text
    assert "<mine>" not in text
    assert not re.search(r'(?:src|href)="(?!#|data:)', text)
    assert "default-src 'none'" in plain
    assert "Bulyan is left out: 4f + 3 > 7" in plain
    assert 'stage = "NNM"\nf = 2\nthen = { stage = "Krum", f = 2 }' in plain


def test_there_is_a_table_under_every_picture_and_what_was_attacked():
    text = page()
    figures = re.findall(r"<figure.*?</figure>", text, re.DOTALL)
    assert len(figures) == 6  # worst cases, maps and backdoors of both settings
    assert all('role="img" aria-label="' in each and "<table" in each for each in figures)
    assert "12.3 %" in text
    assert "4.6 %" in text
    about = re.search(r'<section id="about".*?</section>', text, re.DOTALL)[0]
    for words in ("2 of 7 clients: c5, c6", "round 4", "all updates", "Backdoor(target=0, share=0.5"):
        assert words in about


def test_a_run_that_diverged_is_marked_and_explained():
    cell = Cell(MEAN, "Backdoor", SETTINGS[0])
    text = page([cell])
    assert text.count('class="heat failed"') == 1
    assert f"{cell.method}: diverged" in text


def test_kinds_of_clients_are_compared_seed_by_seed():
    (table,) = clients_tables(grid_result(values(0.01)), FACTS)
    mean, krum = table.rows
    assert mean[1] == "91.0 % to 92.5 % (+1.5 % ± 0.7 %)"
    assert krum[3] == "81.0 % to 82.5 %"
    assert clients_tables(grid_result(values()), grid_facts()) == []
    failed = clients_tables(grid_result(values(), higher=False, failed=[Cell(MEAN, "Backdoor", SETTINGS[1])]), FACTS)
    assert failed[0].rows[0][2] == "diverged"


def test_seeds_have_their_spread_in_the_note():
    note = value_tables(grid_result(values()), FACTS)[0].note
    assert note.startswith("Means over 2 seeds, with a standard deviation of 1.4 percentage points of accuracy")
    single = {key: seeds[0] for key, seeds in values().items()}
    assert value_tables(grid_result(single), grid_facts())[0].note == ""


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: no chromium was found")
def test_in_a_browser_it_is_readable_on_a_phone_and_without_a_picture(tmp_path):
    (tmp_path / "attacks.html").write_text(page())

    async def steps():
        async with Browser.started(tmp_path / "profile") as browser:
            await browser.look(390, 800, dark=True)
            await browser.open((tmp_path / "attacks.html").as_uri())
            assert browser.console == []
            assert len(browser.addresses) == 1
            assert await browser.value("document.documentElement.scrollWidth <= innerWidth")
            names = await browser.names()
            assert ("heading", "Each rule under each attack") in names
            assert any(role == "image" and "success rate of a backdoor" in name for role, name in names)

    asyncio.run(steps())
