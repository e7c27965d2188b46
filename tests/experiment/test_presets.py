"""Presets: what they fill in, and that a file's own word wins."""

import json

import pytest
from test_runfile import PLAIN

from headway.core.errors import ConfigError
from headway.engines import LocalEngine
from headway.experiment.presets import PRESETS
from headway.experiment.runfile import load_runfile

BARE = PLAIN.replace('recipe = "fedprox"\nmu = 0.1\n', 'preset = "cross-silo"\n')


@pytest.fixture
def load(tmp_path):
    def load(text=BARE, sets=(), **options):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return load_runfile(str(path), sets, **options)

    return load


def names(runfile):
    return [type(stage).__name__ for stage in runfile.algorithm.chain]


def test_fills_in_what_is_left_open(load):
    silo = load()
    assert names(silo) == ["Scaffold", "Mean", "ServerSGD"]
    assert (silo.algorithm.trainer.epochs, silo.algorithm.trainer.lr) == (5, 0.05)
    device = load(sets=["algorithm.preset=cross-device"])
    assert names(device) == ["Mean", "ServerAdam"]
    assert device.algorithm.sampler.share == 0.1
    assert device.algorithm.trainer.clip_gradient == 10.0


@pytest.mark.parametrize(
    ("sets", "read", "value"),
    [
        (["algorithm.recipe=fedavg"], names, ["Mean", "ServerSGD"]),
        (['algorithm.chain=[{ stage = "Mean" }]'], names, ["Mean"]),
        (["algorithm.trainer.epochs=2"], lambda f: f.algorithm.trainer.epochs, 2),
        (["algorithm.trainer.steps=7"], lambda f: (f.algorithm.trainer.steps, f.algorithm.trainer.epochs), (7, 1)),
        (["algorithm.sampler.count=2"], lambda f: f.algorithm.sampler.count, 2),
        (["algorithm.sampler.share=0.5"], lambda f: f.algorithm.sampler.share, 0.5),
        (["algorithm.sampler.sampler=All"], lambda f: type(f.algorithm.sampler).__name__, "All"),
    ],
)
def test_what_the_file_says_wins(load, sets, read, value):
    runfile = load(sets=["algorithm.preset=cross-device", *sets])
    assert read(runfile) == value
    assert runfile.preset.overruled


def test_a_method_takes_the_place_of_the_recipe_and_keeps_the_rest(load):
    method = load(sets=["algorithm.preset=cross-device"], method="fedprox")
    assert names(method) == ["FedProx", "Mean", "ServerSGD"]
    assert method.algorithm.trainer.batch_size == 10
    plain = PLAIN.replace('recipe = "fedprox"\nmu = 0.1\n', "").replace("lr = 0.05\n", "")
    steps = load(plain, ["algorithm.preset=cross-silo"], method="fedsgd").algorithm.trainer
    assert (steps.steps, steps.batch_size) == (1, None)


def test_the_resolved_file_holds_the_presets_values_and_no_preset(load):
    first = load()
    again = load(first.to_toml())
    assert again.algorithm == first.algorithm
    assert again.preset is None
    assert first.with_seed(3).preset == first.preset


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_and_all_its_methods_compose(load, name):
    for method in (None, *PRESETS[name].methods):
        algorithm = load(sets=[f"algorithm.preset={name}"], method=method).algorithm
        assert algorithm.flows(LocalEngine().facts, population=200)
    assert PRESETS[name].methods[0] == "fedavg"


def test_cross_device_asks_no_memory_of_clients(load):
    for method in (None, *PRESETS["cross-device"].methods):
        chain = load(sets=["algorithm.preset=cross-device"], method=method).algorithm.chain
        assert not any(stage.has("remember") for stage in chain)


def test_every_value_stands_once_with_a_reason():
    for preset in PRESETS.values():
        paths = [choice.path for choice in preset.choices]
        assert len(set(paths)) == len(paths)
        assert all(len(choice.why) > 20 for choice in preset.choices)


def test_an_unknown_preset_is_refused(load):
    with pytest.raises(ConfigError, match=r"no preset named 'cross-silos' \(did you mean 'cross-silo'\?\)"):
        load(BARE.replace("cross-silo", "cross-silos"))
    with pytest.raises(ConfigError, match=r"algorithm\.preset must be a text, found 3"):
        load(BARE.replace('"cross-silo"', "3"))


def test_explain_shows_what_was_set_and_what_the_file_says(headway):
    _, out, _ = headway("explain", "hospitals", "--set", "algorithm.preset=cross-device")
    assert "set by the preset cross-device" in out
    assert "sampler.share = 0.1  " in out
    assert "left to the file, which sets them otherwise: recipe, trainer.epochs, trainer.batch_size" in out
    assert "preset" not in headway("explain", "hospitals")[1]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_init_writes_a_file_with_a_preset(headway, tmp_path, name):
    rows = "".join(f"{i % 4},{i * 7 % 11},{'yn'[i // 4 % 2]}\n" for i in range(80))
    (tmp_path / "t.csv").write_text("site,dose,outcome\n" + rows)
    code, _, err = headway("init", "--data", "t.csv", "--client-column", "site", "--preset", name)
    assert (code, err) == (0, "")
    runfile = load_runfile("run.toml")
    assert [choice.path for choice in runfile.preset.overruled] == []
    assert tuple(runfile.sections.compare.methods) == PRESETS[name].methods
    assert headway("init", "--data", "t.csv", "--preset", "silo")[0] == 1
    assert f"  {name} " in headway("list")[1]


def test_a_comparison_takes_a_preset(headway):
    sets = ["--set", "algorithm.preset=cross-silo", "--rounds", "1", "--seeds", "1", "--workers", "1", "--json"]
    code, out, _ = headway("compare", "hospitals", "--methods", "fedavg,scaffold", *sets)
    assert code == 0
    assert [json.loads(line)["event"] for line in out.splitlines()].count("method") == 2
