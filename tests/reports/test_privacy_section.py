"""The section about privacy: two promises are two lines, budgets are level, what is left never goes below 0."""

import math

from headway.reports.page.privacy_facts import PrivacyFacts
from headway.reports.page.privacy_section import NONE, privacy_section


def facts(name="", curves=None, **more):
    curves = {"client": {1: 1.0, 2: 1.5}, "local": {1: 4.0, 2: 6.0}} if curves is None else curves
    return PrivacyFacts(name, curves, **{"budgets": {"client": 8.0, "local": 5.0}, "delta": 1e-5, **more})


def rows(section, table=0):
    return [dict(zip(section.tables[table].columns, row, strict=True)) for row in section.tables[table].rows]


def test_two_promises_have_two_rows_and_no_sum():
    section = privacy_section([facts()])
    client, local = rows(section)
    assert (client["promise"], client["epsilon spent"], client["budget"], client["left"]) == (
        "client",
        "1.5",
        "8",
        "6.5",
    )
    assert (local["promise"], local["epsilon spent"], local["left"]) == ("local", "6", "0")
    assert "their sum means nothing" in section.lead
    assert section.figures[0].table.columns == ["round", "client", "local"]


def test_a_ledger_in_trouble_is_said_first():
    section = privacy_section([facts(trouble="line 3 was changed.")])
    assert section.lead.startswith("The ledger of the run: line 3 was changed.")


def test_without_noise_there_is_a_sentence():
    assert privacy_section([]).lead == NONE


def test_before_the_first_release_there_is_no_picture():
    section = privacy_section([facts(curves={})])
    assert not section.figures
    assert [row["epsilon spent"] for row in rows(section)] == ["0", "0"]


def test_infinite_epsilon_is_a_word_and_no_point():
    section = privacy_section([facts(curves={"client": {1: math.inf}}, budgets={"client": None})])
    assert not section.figures
    assert (rows(section)[0]["epsilon spent"], rows(section)[0]["budget"]) == ("infinite", "no limit")


def test_several_runs_are_named():
    section = privacy_section([facts("fedavg", releases=[["delta"] * 6]), facts("ecgr", releases=[["delta"] * 6])])
    assert [row["promise"] for row in rows(section)] == ["fedavg client", "fedavg local", "ecgr client", "ecgr local"]
    assert [row["run"] for row in rows(section, 1)] == ["fedavg", "ecgr"]
