"""A resumed run ends with the same bits as an uninterrupted one."""

import json
import os
import signal
from pathlib import Path

import forks
import pytest
import torch
from processes import until
from torch import nn
from toys import blobs, linear_task

import headway as hw
from headway.client_state import shared_memory as shared
from headway.engines import PooledEngine
from headway.observe.journal import Journal
from headway.observe.run_folder import RunFolder
from headway.protocol.messages import Settle, Train

RECIPES = ("fedavg", "scaffold+ecgr", "fedadam")
ROUNDS = 8


def make(recipe, folder=None, rounds=ROUNDS, **options):
    trainer = hw.LocalSGD(lr=0.1, batch_size=4, momentum=0.5)
    algorithm = hw.recipes.recipe(recipe, trainer=trainer, sampler=hw.Uniform(count=3))
    data = blobs(sizes=(7, 12, 5, 9))
    return hw.Run(algorithm, data, linear_task(), rounds=rounds, folder=folder, **{"checkpoint_every": 3, **options})


def finish(run):
    """All that a run ends with."""
    reports = list(run)
    memory = {
        f"{client}/{label}/{name}": tensor
        for client in sorted(run.memory.clients())
        for label, kept in run.memory.get(client).items()
        for name, tensor in kept.items()
    }
    run.close()
    cohorts = {r.round: tuple(c.client for c in r.clients) for r in reports}
    return run.state.tensors() | memory, cohorts, run.state.round


def assert_same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


@pytest.fixture(scope="module")
def whole():
    return {recipe: finish(make(recipe)) for recipe in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("stop", range(1, ROUNDS))
def test_from_any_round(recipe, stop, whole, tmp_path):
    run = make(recipe, tmp_path / "run")
    for report in run:
        if report.round == stop:
            break
    run.close()
    resumed = make(recipe, tmp_path / "run", resume=True)
    tensors, cohorts, last = finish(resumed)
    assert last == ROUNDS
    assert_same(tensors, whole[recipe][0])
    assert all(whole[recipe][1][r] == cohort for r, cohort in cohorts.items())


@pytest.mark.parametrize("stop", [1, 4])
def test_memory_in_files_is_the_same_to_the_bit(stop, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "ANONYMOUS", 0)
    run = make("scaffold+ecgr", tmp_path / "run")
    for report in run:
        if report.round == stop:
            break
    run.close()
    assert_same(finish(make("scaffold+ecgr", tmp_path / "run", resume=True))[0], whole["scaffold+ecgr"][0])


def test_pooled_training_keeps_the_memory_of_everyone(tmp_path):
    def pooled_run(folder, **options):
        algorithm = hw.recipes.recipe("scaffold", trainer=hw.LocalSGD(lr=0.1, batch_size=4))
        return hw.Run(algorithm, blobs(), linear_task(), rounds=4, engine=PooledEngine(), folder=folder, **options)

    expected = finish(pooled_run(None))[0]
    assert any(name.startswith("everyone/Scaffold") for name in expected)
    next(iter(run := pooled_run(tmp_path / "run")))
    run.close()
    assert_same(finish(pooled_run(tmp_path / "run", resume=True))[0], expected)


def test_a_folder_of_before_an_option_was_added(whole, tmp_path):
    """An option that the folder does not know is what it is when nothing is said; another value is another run."""
    run = make("scaffold+ecgr", tmp_path / "run")
    next(iter(run))
    run.close()
    path = tmp_path / "run" / "run.json"
    identity = json.loads(path.read_text())
    for option in ("loss_term", "validation", "steps_memory"):
        del identity["algorithm"]["trainer"][option]
    del identity["algorithm"]["chain"][0]["correct"]
    path.write_text(json.dumps(identity))
    assert_same(finish(make("scaffold+ecgr", tmp_path / "run", resume=True))[0], whole["scaffold+ecgr"][0])
    for change in ({"correct": "step"}, {"correct": "no such thing"}):
        identity["algorithm"]["chain"][0].update(change)
        path.write_text(json.dumps(identity))
        with pytest.raises(hw.RunFolderError, match="another algorithm"):
            make("scaffold+ecgr", tmp_path / "run", resume=True)


def partly_frozen(value):
    def build():
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
        nn.init.constant_(model[0].weight, value)
        model[:2].requires_grad_(False)
        return model

    return build


def test_frozen_weights_are_part_of_a_run(tmp_path):
    def frozen_run(value, rounds=1, **options):
        algorithm = hw.recipes.recipe("fedavg", trainer=hw.LocalSGD(lr=0.1))
        return hw.Run(
            algorithm, blobs(), hw.Task(partly_frozen(value)), rounds=rounds, folder=tmp_path / "run", **options
        )

    made = frozen_run(0.5)
    assert set(made.flat_module.frozen) == {
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "1.running_mean",
        "1.running_var",
    }
    finish(made)
    with pytest.raises(hw.RunFolderError, match="another model: the model: other frozen weights"):
        frozen_run(0.25, rounds=2, resume=True)
    frozen_run(0.5, rounds=2, resume=True).close()
    path = tmp_path / "run" / "run.json"
    path.write_text(
        path.read_text().replace('"frozen weights":', '"not frozen weights":')
    )  # as an earlier version left it
    resumed = frozen_run(0.25, rounds=2, resume=True)
    assert any("did not write down its frozen weights" in notice for notice in resumed.notices)
    resumed.close()


def crash(folder, recipe, at_line):
    """Starts a run in another process and kills it as soon as it has printed some lines."""
    log = folder.parent / "log"
    argv = [Path(__file__).parent / "crash.py", folder, recipe, "100000"]
    process = forks.forks().start("forks:run_script", argv, folder=folder.parent, log=log)
    until(lambda: len(log.read_text().splitlines()) >= at_line)
    process.kill()
    return process.wait(60)


@pytest.mark.parametrize(("recipe", "at_line"), [("scaffold+ecgr", 1), ("scaffold+ecgr", 5), ("fedadam", 7)])
def test_from_a_kill_in_the_middle_of_a_round(recipe, at_line, tmp_path):
    """The killed process was somewhere in a later round, or writing a checkpoint."""
    assert crash(tmp_path / "run", recipe, at_line) == -signal.SIGKILL
    resumed = make(recipe, tmp_path / "run", rounds=100000, resume=True)
    reached = resumed.state.round
    assert reached >= at_line - 3
    resumed.rounds = reached + 5
    tensors, _, _ = finish(resumed)
    straight = finish(make(recipe, rounds=reached + 5))
    assert_same(tensors, straight[0])


def test_an_interrupt_in_the_middle_of_a_round_forgets_that_round(tmp_path, whole):
    run = make("scaffold+ecgr", tmp_path / "run")
    original, calls = run.engine.ask, []

    def interrupted(ask):
        calls.append(type(ask.request))
        if calls.count(Settle) == 5 and isinstance(ask.request, Train):
            original(ask)  # all clients have trained; their memory is only pending
            raise KeyboardInterrupt
        return original(ask)

    run.engine.ask = interrupted
    with pytest.raises(KeyboardInterrupt):
        list(run)
    run.close()
    resumed = make("scaffold+ecgr", tmp_path / "run", resume=True)
    assert resumed.state.round == 5
    assert_same(finish(resumed)[0], whole["scaffold+ecgr"][0])


def test_the_journal_has_each_round_once(tmp_path):
    run = make("fedavg", tmp_path / "run", checkpoint_every=4)
    for report in run:
        if report.round == 6:
            break
    run.close()
    next(iter((tmp_path / "run" / "checkpoints").glob("round-000006*"))).unlink()  # as if killed after round 6
    finish(make("fedavg", tmp_path / "run", resume=True, checkpoint_every=4))
    journal = Journal(tmp_path / "run" / "journal.sqlite")
    assert [row["round"] for row in journal.rows("rounds")] == list(range(1, ROUNDS + 1))
    assert len(journal.rows("clients")) == 3 * ROUNDS
    assert [r for r, _ in journal.series("clients", "accuracy")] == list(range(1, ROUNDS + 1))
    journal.close()


class TestRefusals:
    @pytest.fixture
    def folder(self, tmp_path):
        finish(make("scaffold+ecgr", tmp_path / "run"))
        return tmp_path / "run"

    def test_a_folder_that_is_taken(self, folder):
        with pytest.raises(hw.RunFolderError, match="exists already and holds a run: resume it"):
            make("fedavg", folder)

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"recipe": "fedavg"}, "another algorithm"),
            ({"seed": 1}, "another seed"),
        ],
    )
    def test_another_configuration(self, folder, change, named):
        options = {"recipe": "scaffold+ecgr", "resume": True} | change
        with pytest.raises(hw.RunFolderError, match=named):
            make(folder=folder, **options)

    @pytest.mark.parametrize("before", ['"draws": 1', '"other": 0'], ids=["other draws", "before they had a number"])
    def test_other_draws(self, folder, before):
        """A run that is complete draws nothing any more, and may be looked at."""
        text = (folder / "run.json").read_text()
        (folder / "run.json").write_text(text.replace('"draws": 2', before))
        with pytest.raises(hw.RunFolderError, match="draw their batches otherwise"):
            make("scaffold+ecgr", folder, rounds=ROUNDS + 1, resume=True)
        make("scaffold+ecgr", folder, resume=True).close()

    def test_another_format(self, folder):
        text = (folder / "run.json").read_text()
        (folder / "run.json").write_text(text.replace('"format": 1', '"format": 99'))
        with pytest.raises(hw.RunFolderError, match="run format 99"):
            make("scaffold+ecgr", folder, resume=True)

    def test_no_run_folder(self, tmp_path):
        with pytest.raises(hw.RunFolderError, match=r"no run folder: it has no run\.json"):
            make("fedavg", tmp_path, resume=True)

    def test_one_corrupt_checkpoint_falls_back_to_the_one_before(self, folder, whole):
        newest = sorted((folder / "checkpoints").iterdir())[-1]
        newest.write_bytes(newest.read_bytes()[:-50])
        resumed = make("scaffold+ecgr", folder, resume=True)
        assert resumed.state.round < ROUNDS
        assert_same(finish(resumed)[0], whole["scaffold+ecgr"][0])

    def test_all_corrupt_is_one_sentence_that_names_them(self, folder):
        for path in (folder / "checkpoints").iterdir():
            path.write_bytes(b"\x00" * 40)
        with pytest.raises(hw.RunFolderError, match=r"round-\d+\.safetensors is missing or damaged.*run it anew"):
            make("scaffold+ecgr", folder, resume=True)

    def test_two_processes_on_one_folder(self, folder):
        held = RunFolder.open(folder)
        with pytest.raises(hw.RunFolderError, match="in use by another process"):
            make("scaffold+ecgr", folder, resume=True)
        held.close()

    def test_a_refused_run_leaves_no_folder(self, tmp_path):
        with pytest.raises(hw.ConfigError):
            make("fedavg", tmp_path / "run", rounds=0)
        assert not (tmp_path / "run").exists()


class TestFullDisk:
    """A real file system that is too small, where one can be had; else writes that fail as on a full disk."""

    def test_is_one_sentence_and_the_run_can_be_resumed(self, tmp_path, monkeypatch, whole):
        run = make("scaffold+ecgr", tmp_path / "run")
        original, writes = os.fsync, []

        def full(handle):
            writes.append(handle)
            if len(writes) > 8:
                raise OSError(28, "No space left on device")
            original(handle)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(hw.RunFolderError, match="cannot be written: No space left on device"):
            list(run)
        run.close()
        monkeypatch.setattr(os, "fsync", original)
        leftovers = [p for p in (tmp_path / "run").rglob(".*") if p.name.startswith(".round")]
        assert leftovers == []
        assert_same(finish(make("scaffold+ecgr", tmp_path / "run", resume=True))[0], whole["scaffold+ecgr"][0])

    def test_when_the_run_starts_nothing_is_left(self, tmp_path, monkeypatch):
        def full(handle):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(hw.RunFolderError, match="No space left"):
            make("fedavg", tmp_path / "run")
        assert list(tmp_path.iterdir()) == []


def test_the_best_model_is_kept(tmp_path):
    run = make("fedavg", tmp_path / "run")
    best = max((r.metrics["accuracy"], -r.round) for r in run)
    assert run.notes["best"]["value"] == best[0]
    assert run.notes["best"]["round"] == -best[1]
    assert (tmp_path / "run" / "best.safetensors").exists()


def test_only_the_last_checkpoints_stay(tmp_path):
    finish(make("fedavg", tmp_path / "run", checkpoint_every=1, keep=2))
    assert [p.stem for p in sorted((tmp_path / "run" / "checkpoints").iterdir())] == ["round-000007", "round-000008"]
