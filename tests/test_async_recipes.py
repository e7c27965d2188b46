"""Recipes that need a clock: what they are, and that a run file can say more."""

import pytest

import headway as hw
from headway.experiment.runfile import load_runfile


def test_fedbuff_is_a_buffer_of_updates_shortened_by_age():
    algorithm = hw.recipes.fedbuff(buffer=4, concurrency=9, max_age=7)
    assert algorithm.chain == hw.chain(hw.Staleness(), hw.Mean(over="clients"), hw.ServerSGD())
    assert algorithm.quorum == hw.Quorum(count=4, late="keep", max_age=7)
    assert algorithm.sampler == hw.Uniform(count=9)


def test_fedasync_mixes_one_model_at_a_time():
    algorithm = hw.recipes.recipe("fedasync", alpha=0.9, by="hinge")
    parts = (hw.FedProx(mu=0.005), hw.Staleness("hinge"), hw.Rebase(), hw.Mean(over="clients"), hw.ServerSGD(lr=0.9))
    assert algorithm.chain == hw.chain(*parts)
    assert algorithm.quorum == hw.Quorum(count=1, late="keep")


def test_with_ecgr():
    assert hw.recipes.recipe("fedbuff+ecgr").chain.stages[:2] == (hw.ECGR(), hw.Staleness())


FILE = """
[run]
rounds = 3
[data]
source = "digits"
partition = {kind = "dirichlet-class", alpha = 0.5}
clients = 12
[model]
name = "mlp"
[algorithm]
recipe = "fedbuff"
%s
[clock]
preset = "hospitals"
"""


def loaded(tmp_path, more="", **options):
    (tmp_path / "run.toml").write_text(FILE % more)
    return load_runfile(str(tmp_path / "run.toml"), **options)


def test_a_run_file_takes_sampler_and_quorum_from_the_recipe(tmp_path):
    algorithm = loaded(tmp_path, "buffer = 3\nconcurrency = 6").algorithm
    assert (algorithm.quorum, algorithm.sampler) == (hw.Quorum(count=3, late="keep"), hw.Uniform(count=6))


def test_a_run_file_changes_parts_of_them(tmp_path):
    algorithm = loaded(tmp_path, "[algorithm.quorum]\nmax_age = 5\n[algorithm.sampler]\ncount = 6").algorithm
    assert (algorithm.quorum, algorithm.sampler) == (hw.Quorum(count=10, late="keep", max_age=5), hw.Uniform(count=6))


def test_what_is_resolved_gives_the_same_run(tmp_path):
    one = loaded(tmp_path, "buffer = 3\nconcurrency = 6")
    (tmp_path / "again.toml").write_text(one.to_toml())
    assert load_runfile(str(tmp_path / "again.toml")).algorithm == one.algorithm


def test_it_runs(tmp_path):
    run = loaded(tmp_path, "buffer = 3\nconcurrency = 6").start()
    reports = list(run)
    run.close()
    assert [report.count("counted") for report in reports] == [3, 3, 3]


@pytest.mark.parametrize("recipe", ["fedbuff", "fedasync"])
def test_without_a_clock_it_is_refused(tmp_path, recipe):
    text = FILE % ""
    (tmp_path / "run.toml").write_text(text[: text.index("[clock]")].replace("fedbuff", recipe))
    with pytest.raises(hw.ChainRefused, match="give the run a clock"):
        load_runfile(str(tmp_path / "run.toml")).start()
