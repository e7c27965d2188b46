"""The run file: what it means, what it refuses, and that its resolved form means the same."""

import tomllib

import pytest

from headway.core.errors import ConfigError, HeadwayError
from headway.experiment.runfile import load_runfile
from headway.experiment.runfile_text import examples

PLAIN = """\
[run]
rounds = 3
[data]
source = "hospitals"
[model]
name = "mlp"
hidden = [4]
[algorithm]
recipe = "fedprox"
mu = 0.1
[algorithm.trainer]
lr = 0.05
"""
LISTED = PLAIN.replace('recipe = "fedprox"\nmu = 0.1\n', "") + (
    '[[algorithm.chain]]\nstage = "FedProx"\nmu = 0.1\n[[algorithm.chain]]\nstage = "Mean"\n'
)


@pytest.fixture
def write(tmp_path):
    def write(text=PLAIN, name="mine.toml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_a_recipe_and_its_chain_written_out_are_the_same(write):
    recipe = load_runfile(write()).algorithm.chain
    assert [type(stage).__name__ for stage in recipe] == ["FedProx", "Mean", "ServerSGD"]
    listed = load_runfile(write(LISTED)).algorithm.chain
    assert listed.stages == recipe.stages[:2]


@pytest.mark.parametrize("text", [PLAIN, LISTED], ids=["recipe", "chain"])
def test_the_resolved_file_means_the_same(write, text):
    first = load_runfile(write(text), seed=7)
    again = load_runfile(write(first.to_toml(), "resolved.toml"))
    assert again.algorithm == first.algorithm
    assert again.resolved() == first.resolved()
    assert tomllib.loads(first.to_toml())["run"]["seed"] == 7


@pytest.mark.parametrize("name", sorted(examples()))
def test_packaged_examples_load_and_say_what_they_are(name):
    runfile = load_runfile(name)
    assert runfile.name == name
    assert examples()[name].endswith(".")
    fewest = 0 if runfile.sections.privacy else 3  # a protected chain is shown by itself
    assert len(runfile.sections.compare.methods) >= fewest
    for method in runfile.sections.compare.methods:
        assert load_runfile(name, method=method).algorithm.trainer == runfile.algorithm.trainer


@pytest.mark.parametrize(
    ("change", "read", "value"),
    [
        ("algorithm.mu=0.7", lambda f: f.algorithm.chain.stages[0].mu, 0.7),
        ("algorithm.FedProx.mu=0.7", lambda f: f.algorithm.chain.stages[0].mu, 0.7),
        ("algorithm.trainer.lr=1", lambda f: f.algorithm.trainer.lr, 1.0),
        ("algorithm.trainer.schedule.kind=cosine", lambda f: f.algorithm.trainer.schedule.kind, "cosine"),
        ("model.hidden=[2, 3]", lambda f: f.sections.model.model_extra["hidden"], [2, 3]),
        ("data.partition.alpha=0.1", lambda f: f.sections.data.partition, {"alpha": 0.1}),
        ("run.seed=4", lambda f: f.sections.run.seed, 4),
        ("algorithm.sampler.sampler=Uniform", None, None),
    ],
)
def test_set(write, change, read, value):
    changes = [change] if read else [change, "algorithm.sampler.count=2"]
    runfile = load_runfile(write(), changes)
    if read is None:
        assert runfile.algorithm.sampler.count == 2
    else:
        assert read(runfile) == value


def test_set_reaches_a_stage_of_a_written_chain(write):
    assert load_runfile(write(LISTED), ["algorithm.FedProx.mu=0.7"]).algorithm.chain.stages[0].mu == 0.7


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("hidden = [4]", "hidden = [4]\n[runn]", r"unknown key 'runn' \(did you mean 'run'\?\)"),
        ("rounds = 3", "rounds = 3\nsed = 1", r"unknown key 'run\.sed' \(did you mean 'seed'\?\)"),
        (
            "rounds = 3",
            'rounds = "3"',
            r'run\.rounds must be a whole number from 1, found "3": write it without quotes, 3\.',
        ),
        ("rounds = 3", "rounds = 0", r"run\.rounds must be a whole number from 1, found 0"),
        ("rounds = 3", "", r"needs 'run\.rounds', which is missing"),
        ("mu = 0.1", "muu = 0.1", r"no option 'muu' \(did you mean 'mu'\?\)"),
        ("mu = 0.1", 'mu = "a"', r'algorithm\.mu must be a number, found "a"'),
        ("mu = 0.1", "mu = -1", r"algorithm\.mu must be at least 0"),
        ("fedprox", "fedprocks", r"no recipe named 'fedprocks' \(did you mean 'fedprox'\?\)"),
        ("lr = 0.05", "lrr = 0.05", r"LocalSGD has no option 'lrr' \(did you mean 'lr'\?\)"),
        ("lr = 0.05", 'lr = "0.05"', r"algorithm\.trainer\.lr must be a number"),
        ("mu = 0.1", 'chain = [{ stage = "Mean" }]', "both a recipe and a chain"),
        ("[run]", "[run", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_a_sentence(write, old, new, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_runfile(write(PLAIN.replace(old, new)))


def test_an_unknown_stage_is_refused(write):
    with pytest.raises(ConfigError, match=r"no stage named 'FedPrx' \(did you mean 'FedProx'\?\)"):
        load_runfile(write(LISTED.replace("FedProx", "FedPrx")))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("algorithm.ECGR.beta=0.1", "the chain has no stage 'ECGR'"),
        ("algorithm.Fedprox.mu=0.1", r"no stage 'Fedprox' \(did you mean 'FedProx'\?\)"),
        ("algorithm.FedProx.muu=0.1", r"FedProx has no option 'muu' \(did you mean 'mu'\?\)"),
        ("run.round=3", r"unknown key 'run\.round' \(did you mean 'rounds'\?\)"),
        ("run=3", r"run must be a table"),
        ("run.rounds.x=3", r"run\.rounds is a value and not a table"),
        ("algorithm.mu", "needs path=value"),
        ("=3", "needs path=value"),
    ],
)
def test_a_wrong_set_is_refused_with_a_sentence(write, change, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_runfile(write(), [change])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["data.source=hospital"], r"no data source 'hospital' \(did you mean 'hospitals'\?\)"),
        (["data.source=nothere.npz"], "no file .*nothere.npz"),
        (["data.test_shar=0.1"], r"has no option 'test_shar'"),
        (["data.source=digits", "data.partition.kind=iid"], "needs a number of clients"),
        (
            ["data.source=digits", "data.clients=5", "data.partition.kind=dirichlet-class", "data.partition.alpha=0"],
            "above 0",
        ),
        (["model.hiden=[3]"], r"no option 'hiden' \(did you mean 'hidden'\?\)"),
        (["model.name=mpl"], r"no model named 'mpl' \(did you mean 'mlp'\?\)"),
        (["model.name=nowhere:net"], "module 'nowhere' cannot be imported"),
        (['task.metrics=["acuracy"]'], r"no metric named 'acuracy' \(did you mean 'accuracy'\?\)"),
        (["task.loss=crossentropy"], r"did you mean 'cross_entropy'\?"),
    ],
)
def test_what_cannot_be_built_is_refused_with_a_sentence(write, changes, sentence):
    with pytest.raises(HeadwayError, match=sentence):
        load_runfile(write(), changes).build().task.model()


def test_a_path_is_relative_to_the_run_file(write, tmp_path, monkeypatch):
    (tmp_path / "table.csv").write_text("c,x,y\n" + "".join(f"{i % 2},{i * i},{i // 2 % 2}\n" for i in range(40)))
    path = write(PLAIN.replace('"hospitals"', '"table.csv"\ntarget = "y"\nclient_column = "c"'))
    monkeypatch.chdir("/")
    runfile = load_runfile(path)
    assert runfile.resolved()["data"]["source"] == str(tmp_path / "table.csv")
    assert runfile.build().data.clients == ("0", "1")


def test_a_model_of_ones_own_lies_beside_the_run_file(write, tmp_path):
    (tmp_path / "ownmodel.py").write_text(
        "import torch\n\ndef net(shape, outputs, wide=2):\n"
        "    return torch.nn.Sequential(torch.nn.Linear(shape[0], wide), torch.nn.Linear(wide, outputs))\n"
    )
    path = write(PLAIN.replace('name = "mlp"\nhidden = [4]', 'name = "ownmodel:net"\nwide = 3'))
    assert load_runfile(path).build().task.model()[0].out_features == 3


def test_every_method_at_a_seed_has_the_same_data(write):
    seeds = {
        (seed, load_runfile("hospitals", method=method, seed=seed).build().data.fingerprint())
        for seed in (0, 1)
        for method in ("fedavg", "scaffold+ecgr")
    }
    assert len(seeds) == 2


def test_a_method_of_the_file_keeps_the_trainer_and_changes_what_it_says(write):
    path = write(PLAIN + '[methods.strong]\nrecipe = "fedprox"\nmu = 1.0\ntrainer = { lr = 0.2 }\n')
    strong = load_runfile(path, method="strong").algorithm
    assert strong.chain.stages[0].mu == 1.0
    assert strong.trainer.lr == 0.2
    assert load_runfile(path, method="fedavg").algorithm.trainer.lr == 0.05
    with pytest.raises(ConfigError, match=r"no method named 'stron' \(did you mean 'strong'\?\)"):
        load_runfile(path, method="stron")


@pytest.mark.parametrize("name", ["hospital", "./nothere.toml"])
def test_a_missing_file_is_refused(name):
    with pytest.raises(ConfigError, match=r"no packaged example named 'hospital'|cannot be read: No such file"):
        load_runfile(name)
