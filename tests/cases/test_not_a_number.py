"""NaN and infinity pass no comparison: what is not known is said to be, and the most unlike case is not called fine."""

import json
import math

import pytest
import torch
from mk import toml

import headway as hw
from headway.advice.findings import UserFacts, findings, level
from headway.advice.likeness import likeness
from headway.core.errors import ConfigError
from headway.experiment.runfile import load_runfile
from headway.numerics.keys import Key

KEY = Key.root(0)


def judged(inputs, targets, each=20):
    clients = {f"c{i}": (x, y) for i, (x, y) in enumerate(zip(inputs.split(each), targets.split(each), strict=True))}
    found = findings(likeness(hw.data.FederatedData.from_clients(clients), KEY), None, UserFacts(), 100)
    return {finding.name: finding for finding in found}, level(found, "likeness")


def owners(clients=6, each=20):
    return torch.arange(clients).repeat_interleave(each)


def noise(width=4, seed=0, count=120):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_targets_constant_within_clients_are_the_most_unlike():
    found, rank = judged(noise(), owners().float() * 10)
    assert (found["target"].level, rank) == ("strong", "strong")
    assert math.isinf(found["target"].value)


def test_features_constant_within_clients_are_the_most_unlike():
    found, rank = judged(owners()[:, None].float().repeat(1, 4), torch.arange(120) % 2)
    assert (found["features"].level, rank) == ("strong", "strong")


def test_one_feature_that_names_the_client_matters():
    inputs = noise()
    inputs[:, 2] = owners()
    found, rank = judged(inputs, torch.arange(120) % 2)
    assert (found["fixed features"].level, rank) == ("mild", "mild")
    assert "input 2 infinity" in found["features"].words


def test_what_does_not_vary_at_all_is_not_known():
    found, rank = judged(torch.ones(120, 4), torch.full((120,), 3.0))
    assert (found["target"].level, found["target"].value, rank) == ("unknown", None, "unknown")
    assert "features" not in found


def test_clients_with_one_example_say_nothing():
    found, rank = judged(noise(count=6), torch.arange(6) % 2, each=1)
    assert (found["label mix"].level, rank) == ("unknown", "unknown")
    found, rank = judged(noise(count=6), torch.arange(6.0), each=1)
    assert (found["target"].level, rank) == ("unknown", "unknown")


def test_finite_figures_are_as_before():
    shifted = noise() + owners()[:, None] * torch.tensor([0.0, 0.0, 0.0, 1.0])
    found, _ = judged(shifted, noise(1, 1)[:, 0])
    assert found["features"].level == "none"
    assert found["features"].value < 0.1
    assert found["target"].level in ("none", "mild")


def test_advise_does_not_call_it_fine(headway):
    import numpy as np

    np.savez("d.npz", x=noise().numpy(), y=owners().numpy().astype("f4"), client=owners().numpy())
    toml("a.toml", 'source = "d.npz"', task='metrics = ["mean_absolute_error"]')
    code, out, _ = headway("advise", "a.toml", "--quick")
    assert code == 0
    assert "f = infinity (the same within a client)" in out
    assert "Clients are alike," not in out
    lines = [json.loads(line) for line in headway("advise", "a.toml", "--quick", "--json")[1].splitlines()]
    assert next(line["level"] for line in lines if line.get("name") == "target") == "strong"


@pytest.mark.parametrize(
    "change",
    [
        "data.test_share=nan",
        "run.until_s=inf",
        "run.until_s=nan",
        "compare.target=nan",
        "advise.unreliable=nan",
        "algorithm.trainer.lr=nan",
        "algorithm.trainer.lr=inf",
        "algorithm.trainer.momentum=nan",
        "algorithm.trainer.weight_decay=nan",
        "algorithm.trainer.clip_gradient=nan",
        "clock.crash=nan",
        "clock.examples_per_s=nan",
        "algorithm.quorum.deadline_s=nan",
    ],
)
def test_a_run_file_holds_no_nan(change):
    with pytest.raises(ConfigError) as caught:
        load_runfile("hospitals", [change])
    assert change.partition("=")[0] in str(caught.value)


def test_an_option_holds_no_nan(headway):
    assert headway("advise", "hospitals", "--quick", "--unreliable", "nan")[0] == 2
