"""Every command, as a person or a program runs it."""

import json
import os
import re
import signal
import subprocess
import sys

import forks
import pytest
import safetensors.torch
import torch
from processes import until

from headway.client_state.store import MemoryStore, flat
from headway.experiment.runfile import load_runfile
from headway.observe.run_folder import MEMORY, read_tensors

PLAIN = """\
# a small run
[run]
rounds = 4
checkpoint_every = 2
threads = 1
[data]
source = "hospitals"
[model]
name = "mlp"
hidden = [4]
[algorithm]
recipe = "scaffold+ecgr"
[algorithm.trainer]
lr = 0.05
"""


@pytest.fixture
def headway(headway, tmp_path):
    """In a folder that holds what the tests run."""
    (tmp_path / "mine.toml").write_text(PLAIN)
    return headway


def kept(folder):
    """All that a run leaves for the next round: model, server state, and every client's memory."""
    checkpoint = sorted((folder / "checkpoints").iterdir())[-1]
    tensors, notes = read_tensors(checkpoint)
    store = MemoryStore()
    store.load(folder / MEMORY, notes["round"])
    for client in store.clients():
        tensors |= {f"{client}/{name}": tensor for name, tensor in flat(store.get(client)).items()}
    return notes["round"], tensors


def assert_same_bits(one, other):
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(tensor, other[1][name]) for name, tensor in one[1].items())


def table(path, rows=80):
    lines = [f"{i % 4},p{i},{(i * 7) % 11 if i % 9 else ''},{'mf'[i % 2]},{'yn'[i // 4 % 2]}" for i in range(rows)]
    path.write_text("site,note,dose,sex,outcome\n" + "\n".join(lines) + "\n")


HEAVY = ("ray", "grpc", "matplotlib", "pandas", "scipy", "pyarrow", "datasets", "PIL", "jinja2", "sklearn", "mlxtend")


def imported_by(folder, *arguments, among):
    """Which of these modules are there after a command, in a process of its own."""
    code = (
        f"import sys; sys.argv = ['headway', *{arguments!r}]\nfrom headway.cli import main as cli\n"
        f"try: cli.main()\nexcept SystemExit: pass\nprint([m for m in {among!r} if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return found.stdout.splitlines()[-1]


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("run", "--help"), ("compare", "--help")])
def test_what_needs_no_training_imports_nothing_heavy(tmp_path, arguments):
    assert imported_by(tmp_path, *arguments, among=("torch", "numpy", *HEAVY)) == "[]"


def test_a_run_imports_only_what_trains(tmp_path):
    among = ("torch", "sympy", "torch._dynamo", "torch.fx.experimental.symbolic_shapes", *HEAVY)
    assert imported_by(tmp_path, "run", "hospitals", "--rounds", "1", among=among) == "['torch']"


def test_run_ends_with_each_client_and_says_where_it_is(headway, tmp_path):
    code, out, err = headway("run", "mine.toml")
    assert (code, err) == (0, "")
    for word in ("4 clients", "Scaffold", "cleveland", "switzerland", "all clients", "runs/mine-s0"):
        assert word in out
    assert not re.search("[\x1b\r]", out)
    assert "round 4/4" in out
    assert (tmp_path / "runs" / "mine-s0" / "run.toml").is_file()
    headway("run", "mine.toml")
    assert (tmp_path / "runs" / "mine-s0-2").is_dir()


def test_json_is_one_object_per_line_and_nothing_else(headway):
    code, out, _ = headway("run", "mine.toml", "--json", "--seed", "3", "--rounds", "2", "--out", "here")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [record.get("round") for record in records] == [1, 2, 2]
    assert records[-1]["folder"] == "here"
    code, out, _ = headway("resume", "here", "--json")
    assert code == 0
    assert len([json.loads(line) for line in out.splitlines()]) == 1


def test_resume_says_where_it_goes_on_and_when_it_is_complete(headway, tmp_path):
    headway("run", "mine.toml", "--out", "short")
    code, out, _ = headway("resume", "short")
    assert (code, out) == (0, "short is complete: 4 of 4 rounds are done.\n")
    code, out, _ = headway("resume", "short", "--rounds", "6")
    assert code == 0
    assert "from round 4" in out
    headway("run", "mine.toml", "--rounds", "6", "--out", "whole")
    assert_same_bits(kept(tmp_path / "short"), kept(tmp_path / "whole"))


def test_a_killed_run_resumes_to_the_same_bits(headway, tmp_path):
    headway("run", "mine.toml", "--rounds", "12", "--out", "whole")
    fault = {"HEADWAY_TEST_FAULT": "before a checkpoint is on disk|kill|4"}
    run = forks.command("run", "mine.toml", "--rounds", "12", "--out", "killed", folder=tmp_path, **fault)
    assert run.result()[0] == -signal.SIGKILL
    assert 0 < kept(tmp_path / "killed")[0] < 12
    code, _, err = headway("resume", "killed")
    assert (code, err) == (0, "")
    assert_same_bits(kept(tmp_path / "whole"), kept(tmp_path / "killed"))


def test_ctrl_c_says_how_to_go_on(tmp_path):
    (tmp_path / "mine.toml").write_text(PLAIN)
    run = forks.command("run", "mine.toml", "--rounds", "100000", "--out", "stopped", folder=tmp_path)
    until(lambda: list((tmp_path / "stopped").glob("checkpoints/round-*[1-9]*")))
    run.fork.send_signal(signal.SIGINT)
    code, out, err = run.result()
    assert code == 130
    assert "headway resume stopped" in out
    assert "Traceback" not in out + err


def test_a_resume_refuses_another_configuration(headway, tmp_path):
    headway("run", "mine.toml", "--rounds", "2", "--out", "run")
    config = tmp_path / "run" / "run.toml"
    config.write_text(config.read_text().replace("lr = 0.05", "lr = 0.06"))
    code, out, err = headway("resume", "run", "--rounds", "3")
    assert code == 1
    assert out == ""
    assert err.startswith("error: the run in run was made with another algorithm")


def test_a_resume_falls_back_on_an_earlier_checkpoint_and_refuses_when_none_is_left(headway, tmp_path):
    headway("run", "mine.toml", "--out", "run")
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir())
    checkpoints[-1].write_bytes(b"no checkpoint")
    code, out, _ = headway("resume", "run")
    assert code == 0
    assert "from round 2" in out
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        checkpoint.write_bytes(b"no checkpoint")
    code, _, err = headway("resume", "run")
    assert code == 1
    assert re.match(r"error: .*damaged.*run it anew", err)


@pytest.mark.parametrize("command", ["resume", "export"])
def test_a_folder_that_holds_no_run_is_refused(headway, tmp_path, command):
    (tmp_path / "other").mkdir()
    for name in ("other", "nothere"):
        code, out, err = headway(command, name)
        assert (code, out) == (1, "")
        assert err == f"error: {name} is no run folder: it has no run.json.\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "nothere.toml"], "cannot be read"),
        (["run", "mine.toml", "--set", "algorithm.ECGR.bta=1"], r"did you mean 'beta'"),
        (["explain", "mine.toml", "--set", "algorithm.FedPrx.mu=1"], "the chain has no stage 'FedPrx'"),
        (["compare", "mine.toml", "--methods", "fedavg"], "at least two methods"),
        (["compare", "mine.toml", "--methods", "fedavg,fedprocks"], r"did you mean 'fedprox'"),
        (["run", "mine.toml", "--set", "algorithm.trainer.lr=1e20"], "diverged in round 1.*lower learning rate"),
        (["init", "--data", "nothere.csv"], "no file nothere.csv"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(headway, arguments, sentence):
    code, _, err = headway(*arguments)
    assert code == 1
    assert re.match(f"error: .*{sentence}", err)
    assert err.count("\n") == 1


def test_a_taken_folder_is_refused(headway, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").touch()
    code, _, err = headway("run", "mine.toml", "--out", "taken")
    assert code == 1
    assert "exists already" in err


def test_wrong_usage_is_exit_code_2(headway):
    assert headway("run")[0] == 2
    assert headway("run", "mine.toml", "--rounds", "0")[0] == 2
    assert headway("rum")[0] == 2


def test_explain_shows_every_stage(headway):
    code, out, _ = headway("explain", "mine.toml")
    assert code == 0
    for word in ("Scaffold(", "ECGR(", "Mean(", "server sees", "travels: delta"):
        assert word in out


def test_list_names_all_kinds(headway):
    code, out, _ = headway("list")
    assert code == 0
    for word in (
        "hospitals",
        "mnist5k",
        "fedadam",
        "+ecgr",
        "Scaffold",
        "LocalSGD",
        "Uniform",
        "lenet",
        "dirichlet-class",
        "Oort",
        "Charging",
        "phones",
    ):
        assert word in out


@pytest.mark.parametrize("options", [[], ["--best"]], ids=["last", "best"])
def test_export_is_a_plain_state_dict(headway, tmp_path, options):
    headway("run", "mine.toml", "--out", "run")
    code, out, _ = headway("export", "run", "--out", "model.safetensors", *options)
    assert code == 0
    assert "model.safetensors" in out
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    module = load_runfile("mine.toml").build().task.model()
    module.load_state_dict(state)
    source = (
        tmp_path / "run" / "best.safetensors" if options else sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    )
    tensors, _ = read_tensors(source)
    assert torch.equal(torch.cat([p.detach().flatten() for p in module.parameters()]), tensors["params"])


@pytest.mark.parametrize("options", [["--client-column", "site"], []], ids=["own clients", "dealt"])
def test_init_writes_a_run_file_that_runs_as_it_is(headway, tmp_path, options):
    table(tmp_path / "table.csv", rows=440)
    code, out, _ = headway("init", "--data", "table.csv", "--out", "sub/new.toml", *options)
    assert code == 0
    assert "Left out" in out
    assert "note" in out
    code, out, err = headway("run", "sub/new.toml", "--rounds", "2", "--out", "run")
    assert (code, err) == (0, "")
    assert f"{4 if options else 10} clients" in out
    code, _, err = headway("init", "--data", "table.csv", "--out", "sub/new.toml")
    assert code == 1
    assert "--force" in err
    assert headway("init", "--data", "table.csv", "--out", "sub/new.toml", "--force")[0] == 0


def test_init_finds_arrays_and_a_number_to_predict(headway, tmp_path):
    import numpy as np

    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "a.npz",
        x=rng.integers(0, 255, (90, 14, 14), dtype=np.uint8),
        y=np.arange(90) % 3,
        client=np.arange(90) % 2,
    )
    (tmp_path / "b.csv").write_text("x,price\n" + "".join(f"{i % 9},{1e5 + 0.5 * i}\n" for i in range(90)))
    for name, model in (("a.npz", "lenet"), ("b.csv", "mlp")):
        assert headway("init", "--data", name, "--out", f"{name}.toml")[0] == 0
        assert load_runfile(f"{name}.toml").sections.model.name == model
        assert headway("run", f"{name}.toml", "--rounds", "1", "--out", f"{name}.run")[0] == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [(["--client-column", "sit"], "did you mean 'site'"), (["--target", "outcom"], "did you mean 'outcome'")],
)
def test_init_refuses_a_column_that_is_not_there(headway, tmp_path, options, sentence):
    table(tmp_path / "table.csv")
    code, _, err = headway("init", "--data", "table.csv", *options)
    assert code == 1
    assert sentence in err
    assert not (tmp_path / "run.toml").exists()


def test_piped_output_has_no_escape_codes_even_where_colour_is_wished_for(tmp_path):
    (tmp_path / "mine.toml").write_text(PLAIN)
    code, out, err = forks.command("run", "mine.toml", folder=tmp_path, TERM="xterm-256color").result()
    assert code == 0
    assert not re.search("[\x1b\r]", out + err)


def test_threads_do_not_spin_for_long_unless_told_to():
    code = "import os; from headway.cli import main; print(os.environ['GOMP_SPINCOUNT'])"
    for told, found in (({}, "20000"), ({"GOMP_SPINCOUNT": "7"}, "7")):
        environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"} | told
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == found
