"""The pages of the stages are those that the docstrings make."""

import runpy
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

import headway as hw
from headway.core.stage import stages

DOCS = Path(__file__).parent.parent / "docs"
NAMES = sorted(path.name for path in (DOCS / "stages").glob("*.md"))


@pytest.fixture(scope="module")
def maker():
    return runpy.run_path(str(DOCS / "make_stage_pages.py"))


@pytest.fixture(scope="module")
def pages(maker):
    return maker["pages"]()


@pytest.mark.parametrize("name", NAMES)
def test_the_page_is_current(name, pages):
    assert (DOCS / "stages" / name).read_text("utf-8") == pages[name], "run `make docs`"


def test_every_stage_has_a_page_and_every_page_a_stage(pages):
    ours = {name for name in stages.names() if stages.get(name).__module__.startswith("headway.")}
    assert {"ECGR", "Scaffold", "Mean"} <= ours
    assert set(pages) == set(NAMES) == {f"{name}.md" for name in ours} | {"index.md"}
    assert all(f"({name}.md)" in pages["index.md"] for name in ours)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "index.md"])
def test_the_fragment_of_a_run_file_makes_the_stage(name, pages):
    fragment = pages[name].partition("```toml\n")[2].partition("```")[0]
    (table,) = tomllib.loads(fragment)["algorithm"]["chain"]
    assert type(stages.build(table)).__name__ == name.removesuffix(".md")


def test_what_the_code_knows_is_said(pages):
    scaffold = pages["Scaffold.md"]
    assert "| needs | clients that keep memory between rounds; rounds in step (no updates of any age) |" in scaffold
    assert "| sends beside the delta | `control`, 4 bytes a parameter, as much as the delta |" in scaffold
    assert "| sends beside the delta | `normaliser`, 4 bytes |" in pages["FedNova.md"]
    assert "| a client remembers | `l`, a number per parameter |" in pages["FedDyn.md"]
    assert "| needs | nothing special |" in pages["FedProx.md"]
    assert "| `cap` | whole number or none, at least 1, only with `by` = `capped` | `none` |" in pages["Weigh.md"]
    assert "```text\nexamples:  sum" in pages["Mean.md"]


def test_a_stage_of_ones_own_has_no_page_here(maker):
    @dataclass(frozen=True)
    class Own(hw.Stage):
        """Not ours."""

        place = hw.Place.WEIGH

    with stages.classes.restored():
        stages.register(Own)
        assert "Own" in stages.names()
        assert "Own" not in maker["ours"]()
    assert "Own" not in stages.names()
