"""Run files as people write them: each mistake is one sentence with the key's full path and what was meant."""

import numpy as np
import pytest
from mk import blobs, toml

from headway.core.errors import ConfigError
from headway.experiment.runfile import load_runfile


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """The sentence about a run file that ends with the given text."""
    monkeypatch.chdir(tmp_path)
    x, y = blobs(n=60)
    np.savez("plain.npz", x=x, y=y, client=np.arange(60) % 3)

    def odd(text):
        (tmp_path / "odd.toml").write_text(
            f'[run]\nrounds = 1\n[data]\nsource = "plain.npz"\n[model]\nname = "mlp"\n{text}\n'
        )
        with pytest.raises(ConfigError) as caught:
            load_runfile("odd.toml").build()
        return str(caught.value)

    return odd


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[algorithm]\nlr = 0.1", "it belongs under [algorithm.trainer]: algorithm.trainer.lr."),
        ("[trainer]\nlr = 0.1", "unknown key 'trainer'; write [algorithm.trainer]."),
        ("[sampler]\ncount = 1", "unknown key 'sampler'; write [algorithm.sampler]."),
        ("[partition]\nkind = 'iid'", "unknown key 'partition'; write [data.partition]."),
        ("lr = 0.1", "model.lr: the model 'mlp' has no option 'lr'; it belongs under [algorithm.trainer]"),
        ("[algorithm.trainer]\nrounds = 3", "it belongs under [run]: run.rounds."),
        ("[algorithm.trainer]\nlearning_rate = 0.1", "here it is called lr: algorithm.trainer.lr."),
        ("[algorithm.trainer]\nlocal_epochs = 2", "here it is called epochs: algorithm.trainer.epochs."),
        ('[algorithm.trainer]\noptimizer = "adam"', 'algorithm.trainer = {trainer = "LocalOptimizer", optimizer'),
        ("[algorithm.sampler]\ncount = 2", 'and Uniform have it: algorithm.sampler.sampler = "'),
        ("[Algorithm]\nlr = 0.1", "unknown key 'Algorithm' (did you mean 'algorithm'?)"),
        ('[algorithm]\nrecipe = "FedAvg"', "algorithm.recipe: there is no recipe named 'FedAvg' (did you mean 'fed"),
        ('[algorithm]\nrecipe = "fedprox"\nmu = "0.1"', 'algorithm.mu must be a number, found "0.1": write it w'),
        ('[algorithm]\nrecipe = "fedprox"\nmu = -1', "algorithm.mu must be at least 0"),
        ('[algorithm.trainer]\nlr = "1e-3"', 'algorithm.trainer.lr must be a number, found "1e-3": write it without'),
        ('[algorithm.trainer]\nlr = "0,1"', "write a decimal point, 0.1."),
        ("[algorithm.trainer]\nlr = nan", "algorithm.trainer.lr must be "),
        ("[algorithm.trainer]\nlr = true", "algorithm.trainer.lr must be a number, found true."),
        ("[algorithm.trainer]\nbatch_size = 32.0", "algorithm.trainer.batch_size must be a whole number, found 32.0: "),
        ("[algorithm.trainer]\nbatch_size = 0", "algorithm.trainer.batch_size must be "),
        ('[algorithm.trainer]\nschedule = "cosine"', 'write { kind = "cosine" }'),
        ('[algorithm.trainer.schedule]\nkind = "cosin"', "algorithm.trainer.schedule.kind must be "),
        ("hidden = 16", "model.hidden must be a list, found 16: write [16]."),
        (
            '[engine]\nworkers = "2"',
            'engine.workers must be a whole number from 1 to 1024, found "2": write it without',
        ),
        ('[engine]\nlanes = "fast"', 'engine.lanes must be a whole number or "auto", found "fast".'),
        ('[engine]\nkind = "Local"', 'engine.kind must be one of "local" or "processes" or "ray", found "Local".'),
        ('[task]\nmetrics = "accuracy"', 'task.metrics must be a list of texts, found "accuracy": write ["accuracy"].'),
        ('[task]\nloss = "CrossEntropyLoss"', "task: there is no loss named 'CrossEntropyLoss' (did you mean 'cross_"),
        ("[methods]\nx = 3", "methods.x must be a table, found 3."),
        ("[run]\nseed = 1", "the run file odd.toml has the table [run] twice, the second time in line 7: put both in "),
        ("[task]\nloss = cross_entropy", 'not valid TOML in line 8 ("loss = cross_entropy")'),
    ],
)
def test_a_mistake_is_answered_with_the_path_and_what_was_meant(odd, text, sentence):
    assert sentence in odd(text)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("lr=0.1", "it belongs under [algorithm.trainer]: algorithm.trainer.lr."),
        ("trainer.lr=0.1", "write [algorithm.trainer]."),
        ("algorithm.trainer.lr=0,1", "write a decimal point, 0.1."),
        ("run.rounds=1e3", "run.rounds must be a whole number from 1, found 1000.0: write 1000."),
        ('run.name="my run"', 'write "my_run".'),
        ("run.rounds=ten", 'run.rounds must be a whole number from 1, found "ten".'),
    ],
)
def test_a_change_on_the_command_line_is_answered_alike(change, sentence):
    with pytest.raises(ConfigError) as caught:
        load_runfile("hospitals", [change])
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.yaml", b"run:\n  rounds: 2\n", "a run file is TOML, and a.yaml is YAML"),
        ("a.json", b'{"run": {}}', "a run file is TOML, and a.json is JSON"),
        ("a.toml", b'{"run": {}}', "a run file is TOML, and a.toml is JSON"),
        ("a.toml", "[run]\nrounds = 2\n".encode("utf-16"), "is UTF-16, but TOML is UTF-8: save it as UTF-8"),
        ("a.toml", b'[run]\nname = "\xe4"\n', "byte 0xe4 in line 2 is not UTF-8"),
        ("a.npz", b"PK", "a.npz is a file of data and no run file: `headway init --data a.npz`"),
    ],
)
def test_another_kind_of_file_is_named(tmp_path, monkeypatch, name, content, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_runfile(name)
    assert sentence in str(caught.value)


def test_a_folder_is_no_missing_file(headway, tmp_path):
    toml("a.toml", 'source = "hospitals"', rounds=1)
    assert "a folder, but a run file (.toml) is needed; it holds a.toml" in headway("run", ".")[2]
    assert headway("run", "a.toml", "--out", "one")[0] == 0
    assert "`headway resume one` goes on with it" in headway("run", "one")[2]


def test_old_line_ends_are_read(tmp_path):
    toml(tmp_path / "a.toml", 'source = "hospitals"', rounds=1)
    text = (tmp_path / "a.toml").read_text()
    (tmp_path / "a.toml").write_text(text.replace("\n", "\r"), newline="")
    assert load_runfile(str(tmp_path / "a.toml")).sections.run.rounds == 1


@pytest.mark.parametrize("name", ["my run (final).toml", "ü 100% #1.toml", "-frozen.toml", "#.toml", "a.b.toml"])
def test_a_run_file_may_have_any_name(headway, tmp_path, name):
    toml(name, 'source = "hospitals"', rounds=1)
    code, _, err = headway("run", f"./{name}")
    assert (code, err) == (0, "")
    (folder,) = (tmp_path / "runs").iterdir()
    assert headway("report", folder)[0] == 0
    assert headway("resume", folder, "--rounds", "2")[0] == 0
    assert headway("export", folder)[0] == 0


def test_a_name_with_a_dash_is_no_option(headway):
    assert "named ./-frozen.toml" in headway("run", "-frozen.toml")[0]


OWN = """\
from dataclasses import dataclass
from typing import ClassVar
from headway.core.stage import Place, Stage, stages

@stages.register
@dataclass(frozen=True)
class Untouched(Stage):
    place: ClassVar[Place] = Place.STEP
    strength: float = 1.0

    def step(self, grad, w, memory, ctx):
        return grad
"""


def test_stages_of_ones_own_are_imported(headway, tmp_path):
    chain = 'chain = [{ stage = "Untouched", strength = 2.0 }, { stage = "Mean" }]'
    toml("a.toml", 'source = "hospitals"', rounds=1, algorithm=chain)
    assert 'run.imports = ["module"] imports module.py beside the run file' in headway("run", "a.toml")[2]
    (tmp_path / "own_stages.py").write_text(OWN)
    toml("a.toml", 'source = "hospitals"', rounds=1, algorithm=chain, run='imports = ["own_stages"]')
    assert headway("run", "a.toml", "--out", "one")[0] == 0
    assert headway("resume", "one", "--rounds", "2")[0] == 0
    code, _, err = headway("run", "a.toml", "--set", 'run.imports=["nowhere"]')
    assert (code, "run.imports: the module 'nowhere' cannot be imported from" in err) == (1, True)
