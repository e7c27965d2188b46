"""The tutorial and the guide do as they say."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from headway import recipes
from headway.advice.findings import THRESHOLDS
from headway.core.stage import stages
from headway.experiment.presets import PRESETS
from headway.experiment.runfile import load_runfile

DOCS = Path(__file__).parent.parent / "docs"
TUTORIAL, CHOOSING = ((DOCS / name).read_text() for name in ("tutorial.md", "choosing.md"))
SHORT = {
    "run": ["--rounds", "1"],
    "compare": ["--rounds", "1", "--seeds", "1", "--workers", "1"],
    "advise": ["--quick"],
}
HEAD = '[run]\nrounds = 1\n[data]\nsource = "hospitals"\n[model]\nname = "logistic"\n'


def blocks(text):
    """Every fenced block: its language and its lines."""
    return re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)


def commands(text):
    """Every `headway` command, in order."""
    return [
        shlex.split(line, comments=True)[1:]
        for language, block in blocks(text)
        if language == "console"
        for line in block.splitlines()
        if line.startswith("headway ")
    ]


def shortened(arguments):
    """The command with fewer rounds and seeds: the last option of a name counts."""
    return [*arguments, *SHORT.get(arguments[0], [])]


def test_the_tutorial_from_its_first_line_to_its_last(headway, capsys):
    """Every command and every Python block, in order and in one folder, with one round each."""
    ran, outputs = [], {}
    with stages.classes.restored():
        for language, block in blocks(TUTORIAL):
            if language == "python":
                capsys.readouterr()
                exec(compile(block.replace("rounds=5", "rounds=2"), "tutorial.md", "exec"), {})
                ran.append(capsys.readouterr().out)
            for arguments in commands(f"```console\n{block}```") if language == "console" else ():
                code, out, err = headway(*shortened(arguments))
                assert (code, err) == (0, ""), arguments
                outputs[" ".join(arguments[:2])] = out
    assert len(ran) == 4
    assert ran[1].count("scaffold") == 4
    assert "worst:" in ran[3]
    said = [line for language, block in blocks(TUTORIAL) if language == "text" for line in block.splitlines()]
    for command in ("explain hospitals", "explain mine.toml", "init --data"):
        shown = [line for line in outputs[command].splitlines() if line in said]
        assert len(shown) >= 1, command
    explained = outputs["explain hospitals"] + outputs["explain mine.toml"]
    table = [line for line in said if line.startswith(("Scaffold(", "ECGR(", "travels: ", "  trainer.", "  sampler."))]
    assert len(table) == 6
    assert all(line in explained for line in table)


def test_what_the_tutorial_shows_of_advice_is_what_is_printed(headway):
    said = [line for language, block in blocks(TUTORIAL) if language == "text" for line in block.splitlines()]
    for language, block in blocks(TUTORIAL)[:6]:
        if language == "python":
            exec(compile(block, "tutorial.md", "exec"), {})
    for arguments in commands(TUTORIAL)[2:3]:
        headway(*shortened(arguments))
    _, out, _ = headway("advise", "mine.toml", "--quick")
    (first,) = [line for line in said if line.startswith("  label mix")]
    assert first in out
    assert "headway compare mine.toml --methods fedavg,scaffold,fedprox,fedavg+ecgr --seeds 5" in out


@pytest.mark.parametrize("arguments", commands(CHOOSING), ids=" ".join)
def test_the_commands_of_the_guide(headway, arguments):
    code, _, err = headway(*arguments, *(["--quick"] if "--quick" not in arguments else []))
    assert (code, err) == (0, "")


@pytest.mark.parametrize("block", [block for language, block in blocks(CHOOSING) if language == "toml"])
def test_the_fragments_of_the_guide_load(tmp_path, block):
    path = tmp_path / "guide.toml"
    path.write_text(HEAD + block)
    runfile = load_runfile(str(path))
    assert tomllib.loads(block).keys() <= {"advise", "algorithm", "compare", "methods"}
    grid = runfile.sections.compare.grid
    for method, table in runfile.sections.methods.items():
        for changed, values in {**grid, **table.get("grid", {})}.items():
            for value in values:
                load_runfile(str(path), [f"{changed}={value}"], method=method)
        load_runfile(str(path), method=method)


def test_the_guide_states_every_threshold():
    for name, threshold in THRESHOLDS.items():
        assert f"| {name} | {threshold.mild:g} | {threshold.strong:g} |" in CHOOSING


def test_the_guide_states_the_cost_of_every_recipe():
    costs = CHOOSING.partition("## What each method costs")[2].partition("## Which number")[0]
    for name in recipes.RECIPES:
        assert recipes.RECIPES.package(name) is None
        assert f"`{name}`" in costs, name
    for kind in PRESETS:
        assert f'`preset = "{kind}"`' in CHOOSING


@pytest.mark.parametrize("name", ["tutorial.md", "choosing.md", "stages/index.md"])
def test_links_lead_somewhere(name):
    page = DOCS / name
    links = re.findall(r"\]\(([^)#]+?)\)", page.read_text())
    assert links
    assert all((page.parent / link).exists() for link in links if not link.startswith("http"))


def test_the_tutorial_stays_short():
    assert len(TUTORIAL.splitlines()) < 330
