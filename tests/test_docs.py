"""What the README shows is run."""

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest
import torch
import typer
from toys import blobs, linear_task

import headway as hw
from headway.core.registry import build
from headway.core.sampler import samplers
from headway.experiment.runfile import load_runfile
from headway.experiment.runfile_schema import ClockSection

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(source: str) -> dict:
    names: dict = {}
    exec(compile(source, "README.md", "exec"), names)
    return names


def example(containing: str) -> str:
    (found,) = [source for source in PYTHON if containing in source]
    return found


def test_the_short_example(capsys):
    source = example("hw.rounds(")
    assert len([line for line in source.splitlines() if line.strip()]) <= 7  # six lines and an import of torch
    names = run(source.replace("rounds=20", "rounds=2"))
    assert names["report"].round == 2
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_longer_example(capsys):
    names = run(example("print(algorithm.explain())").replace("rounds=20", "rounds=2"))
    assert "ECGR()" in capsys.readouterr().out
    assert names["report"].round == 2


def test_the_stage_of_ones_own():
    damp = run(example("class DampLeeway"))["DampLeeway"]
    trainer = hw.LocalSGD(lr=0.1, batch_size=4)

    def final(*stages):
        run = hw.Run(hw.Algorithm(hw.chain(*stages, hw.Mean()), trainer, hw.All()), blobs(), linear_task(), rounds=3)
        list(run)
        return run.state.params

    torch.testing.assert_close(final(damp(keep=1.0)), final(), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(final(damp(keep=0.0)), final())
    assert hw.Chain.from_config([{"stage": "DampLeeway"}, {"stage": "Mean"}]).stages[0] == damp(keep=0.5)


NAMED = [
    "docs/design.md",
    "docs/choices.md",
    "docs/comparing.md",
    "docs/internals.md",
    "docs/images/round.svg",
    "docs/data.md",
    "docs/extending.md",
    "docs/glossary.md",
    "docs/results.md",
    "docs/images/ecgr-gain.svg",
    "docs/images/mnist.png",
    "docs/skew.md",
    "docs/tutorial.md",
    "docs/choosing.md",
    "docs/speed.md",
    "docs/clients.md",
    "docs/stages/index.md",
    "docs/images/partition.png",
    "CHANGELOG.md",
    "LICENSE",
    "NOTICE",
]


@pytest.mark.parametrize("path", NAMED)
def test_named_files_exist(path):
    assert (ROOT / path).exists()


def test_the_page_on_skew_names_every_partition_and_shift_with_its_numbers():
    page = (ROOT / "docs/skew.md").read_text()
    for kind, rule in {**hw.data.PARTITIONERS, **hw.data.SHIFTS}.items():
        (row,) = [line for line in page.partition("## Synthetic")[0].splitlines() if line.startswith(f"| `{kind}`")]
        for field in dataclasses.fields(rule):
            assert f"`{field.name}`" in row.split("|")[1], (kind, field.name)
    (config,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    section = tomllib.loads(config)["data"]
    assert [hw.data.shift(**each).kind for each in section["shift"]] == ["rotation", "labels"]
    assert hw.data.partitioner(**section["partition"]).alpha == 0.5


def test_the_page_on_clients_shows_tables_that_load(tmp_path):
    page = (ROOT / "docs/clients.md").read_text()
    shown = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    clock, asked, quorum, kept, costs = (tomllib.loads(text) for text in shown)
    assert samplers.build(asked["algorithm"]["sampler"]) == hw.Oort(count=10, pace_s=60.0)
    (tmp_path / "cost.toml").write_text(shown[4])
    quorums = [load_runfile(str(tmp_path / "cost.toml"), method=name).algorithm.quorum for name in costs["methods"]]
    assert quorums == [hw.Quorum(), hw.Quorum(count=5), hw.Quorum(count=5, late="keep")]
    fleet = ClockSection(**clock["clock"]).fleet()
    assert (fleet.examples_per_s, fleet.crash, fleet.availability) == (60.0, 0.05, hw.Diurnal(8.0, 22.0, 3.0))
    assert build(hw.Quorum, quorum["algorithm"]["quorum"]).summary == (
        "a round ends when 8 have answered, or after 300 s; late updates are dropped; who fails is asked 1 times more; "
        "others are asked instead"
    )
    algorithm = hw.Algorithm(
        hw.Chain.from_config(kept["algorithm"]["chain"]),
        hw.LocalSGD(),
        hw.Uniform(count=kept["algorithm"]["sampler"]["count"]),
        build(hw.Quorum, kept["algorithm"]["quorum"]),
    )
    assert algorithm.chain.stages[0] == hw.Staleness()
    options = {field.name for field in dataclasses.fields(hw.Quorum)} - {"max_age"}
    assert set(quorum["algorithm"]["quorum"]) == options
    assert set(clock["clock"]) - {"preset"} <= {field.name for field in dataclasses.fields(hw.DeviceFleet)}


def test_the_page_on_clients_names_every_sampler_and_what_it_reads():
    page = (ROOT / "docs/clients.md").read_text()
    rows = [line.split("|") for line in page.partition("## Who is asked")[2].splitlines() if line.startswith("| `")]
    cells = {row[1].strip(): row[3].strip() for row in rows}
    options = {"All": {}, "Fixed": {"clients": ("a",)}, "Poisson": {"rate": 0.5}}
    options["PowerOfChoice"] = {"count": 2, "candidates": 3}
    registered = [name for name in samplers.names() if samplers.get(name).__module__.startswith("headway.")]
    for name in registered:
        facts = samplers.get(name)(**options.get(name, {"count": 2})).facts(9)
        said = cells[f"`{name}`"]
        assert facts.reads == (set() if said == "nothing" else set(said.split(", "))), name
    assert len(cells) == len(registered) + 1
    assert cells["`Poisson` with `most`"] == "nothing"


def test_every_command_in_the_readme_exists():
    from headway.cli.main import app

    known = set(typer.main.get_command(app).commands)
    named = set(re.findall(r"^headway (\w+)", README, re.MULTILINE))
    assert named
    assert named <= known
