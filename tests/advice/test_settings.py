"""A setting that undoes itself is said before training, in the header and by explain; one that does not is not."""

import re

import numpy as np
import pytest
from mk import blobs, toml

import headway as hw
from headway.advice.settings import setting_warnings

SIZES = (12, 12, 3000)


def said(*parts, rounds=12, sizes=SIZES, averaged=False, **trainer) -> list[str]:
    algorithm = hw.Algorithm(hw.chain(*(parts or (hw.Mean(),))), hw.LocalSGD(**{"batch_size": 8, **trainer}), hw.All())
    return list(setting_warnings(algorithm, rounds, sizes, averaged))


def schedule(**numbers):
    return {"schedule": hw.Schedule(**numbers)}


SAYS = {
    "linear": (schedule(kind="linear", horizon=5), r"is 0 from round 6 on, of 12.*horizon = 12"),
    "cosine": (schedule(kind="cosine", horizon=11), r"is 0 from round 12 on, of 12"),
    "step": (schedule(kind="step", factor=0.1), r"below 1e-06 of lr from round 8 on.*schedule\.factor or every"),
    "exponential": (schedule(kind="exponential", factor=0.1), r"from round 8 on.*a larger .*factor\."),
    "epochs": (schedule(kind="linear", over="epochs", horizon=2) | {"epochs": 5}, r"0 from epoch 3 on, of 5"),
    "again": (schedule(kind="linear", over="epochs", horizon=5) | {"epochs": 5}, r"starts again in each round"),
    "one epoch": (schedule(kind="step", over="epochs"), r"never changes, since .* counts epochs"),
    "steps": (schedule(kind="linear", over="steps", horizon=9), r"is 0 from step 10 on, of 375"),
    "both": ({"steps": 3, "epochs": 5}, r"epochs = 5 has no effect, since algorithm\.trainer\.steps = 3"),
    "validation": ({"validation": 0.1}, r"validation = 0\.1 keeps examples from training that no stage looks at"),
}


@pytest.mark.parametrize("name", SAYS)
def test_a_trainer_that_undoes_itself(name) -> None:
    options, says = SAYS[name]
    (line,) = [each for each in said(**options) if re.search(says, each)]
    assert line.endswith(".")


QUIET = {
    "nothing": {},
    "linear": schedule(kind="linear", horizon=12),
    "cosine": schedule(kind="cosine", horizon=5, floor=0.1),
    "step": schedule(kind="step", factor=0.5, every=3),
    "steps": {"steps": 3},
    "momentum": {"momentum": 0.9},
}


@pytest.mark.parametrize("name", QUIET)
def test_what_works_is_not_warned_of(name) -> None:
    assert said(**QUIET[name]) == []
    assert said(hw.Clip(), hw.Mean(), **QUIET[name]) == []
    assert said(hw.FedProx(0.1), hw.ECGR(), hw.Mean(), **QUIET[name]) == []


CHAINS = {
    "scaffold": ((hw.Scaffold(), hw.Mean()), {"momentum": 0.9}, r"SCAFFOLD with .* from 2 to 375 local steps"),
    "clip": ((hw.Clip(), hw.Mean()), {"averaged": True}, r"Clip takes the averaged statistics"),
    "pull": ((hw.FedProx(100.0), hw.Mean()), {"lr": 0.1}, r"overshoots .* is 10, and steps grow from 2"),
    "one step": ((hw.FedProx(), hw.Mean()), {"batch_size": None}, r"FedProx has no effect where every client"),
    "ecgr": ((hw.ECGR(), hw.Mean()), {"steps": 1}, r"ECGR has no effect where every client"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_that_undoes_itself(name) -> None:
    parts, options, says = CHAINS[name]
    (line,) = said(*parts, **options)
    assert re.search(says, line)


def test_scaffold_is_not_warned_of_where_clients_are_alike_or_the_step_is_corrected() -> None:
    assert said(hw.Scaffold(), hw.Mean(), momentum=0.9, sizes=(20, 30)) == []
    assert said(hw.Scaffold(), hw.Mean()) == []
    assert said(hw.Scaffold(), hw.Mean(), momentum=0.9, steps=5) == []
    assert said(hw.Scaffold(correct="step"), hw.Mean(), momentum=0.9) == []


def test_the_header_and_explain_say_it_and_the_end_of_a_rate_is_no_traceback(headway) -> None:
    x, y = blobs()
    np.savez("plain.npz", x=x, y=y, client=np.arange(len(y)) % 4)
    toml("run.toml", 'source = "plain.npz"', rounds=4)
    late = ["--set", 'algorithm.trainer.schedule={kind="linear", horizon=2}']
    code, out, _ = headway("run", "run.toml", *late, "--out", "late")
    shown = " ".join(out.split())
    assert code == 0
    assert "the learning rate is 0 from round 3 on, of 4" in shown
    assert "resume it for more rounds" in shown
    _, out, _ = headway("explain", "run.toml", *late)
    assert "the learning rate is 0 from round 3 on, of 4" in " ".join(out.split())


def test_part_of_an_epoch_in_a_run_file_is_answered_with_steps(headway) -> None:
    x, y = blobs()
    np.savez("plain.npz", x=x, y=y, client=np.arange(len(y)) % 4)
    toml("run.toml", 'source = "plain.npz"')
    code, out, err = headway("run", "run.toml", "--set", "algorithm.trainer.epochs=0.1")
    assert code != 0
    assert "algorithm.trainer.steps" in " ".join((out + err).split())
