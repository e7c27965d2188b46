"""The synthetic data of FedProx: the moments of the model that generates them, and every refusal."""

from typing import Any

import numpy as np
import pytest
import torch

from headway.core.errors import ConfigError
from headway.data import load, sources
from headway.data.partition.allocation import generator
from headway.data.sources.example_pool import ExamplePool
from headway.data.sources.synthetic import SyntheticOptions, synthetic_pool
from headway.numerics.keys import Key

KEY = Key.root(1)


def pool(**options: Any) -> tuple[ExamplePool, np.ndarray, np.ndarray, np.ndarray]:
    """The pool, its inputs, its targets, and the number of each example's client."""
    made = synthetic_pool(key=options.pop("key", KEY), options=SyntheticOptions(**options))
    assert made.owners is not None
    owners = np.unique(made.owners, return_inverse=True)[1]
    assert isinstance(made.inputs, torch.Tensor)
    return made, made.inputs.double().numpy(), made.targets.numpy(), owners


def test_inputs_have_the_covariance_of_the_paper_about_a_mean_per_client() -> None:
    _, x, _, owners = pool(clients=5, smallest=20_000, size_mean=0.0, size_spread=0.0)
    for client in range(5):
        mine = x[owners == client]
        wanted = np.arange(1, 61) ** -1.2
        assert mine.var(axis=0) == pytest.approx(wanted, rel=0.06)
        close = np.cov(mine[:, :3].T)
        assert abs(close[np.triu_indices(3, 1)]).max() < 0.02


def test_means_of_inputs_spread_by_beta_between_clients_and_by_one_within() -> None:
    """v_kj = B_k + N(0, 1), so the mean over j has variance beta^2 + 1/F, and the spread over j is 1."""
    for beta in (0.0, 2.0):
        _, x, _, owners = pool(clients=1500, beta=beta, smallest=4, largest=4, dimension=40)
        scales = np.arange(1, 41) ** -1.2 / 4  # what the mean of 4 examples adds to the variance
        means = np.stack([x[owners == client].mean(axis=0) for client in range(1500)])
        assert means.mean(axis=1).var() == pytest.approx(beta**2 + (1 + scales.mean()) / 40, rel=0.12)
        assert means.var(axis=1).mean() == pytest.approx((1 + scales.mean()) * 39 / 40, rel=0.05)


def test_sizes_are_log_normal_above_the_smallest() -> None:
    _, _, _, owners = pool(clients=3000, dimension=1, classes=2, size_spread=1.0)
    logs = np.log(np.bincount(owners) - 50 + 0.5)  # floor takes half of one away on average
    assert logs.mean() == pytest.approx(4.0, abs=0.06)
    assert logs.std() == pytest.approx(1.0, abs=0.06)
    assert np.bincount(pool(clients=40, largest=60)[3]).max() == 60
    assert np.bincount(pool()[3]).shape == (30,)
    assert np.bincount(pool()[3]).min() >= 50


def test_labels_are_the_argmax_of_the_model_that_is_drawn() -> None:
    """The generator, written again plainly: labels and inputs are those of the documented draws."""
    made, x, y, owners = pool(clients=3, alpha=0.5, beta=0.7, dimension=6, classes=4, largest=80)
    assert made.classes == 4
    for client in range(3):
        rng = generator(KEY.derive("client", client))
        u, centre = 0.5 * rng.standard_normal(), 0.7 * rng.standard_normal()
        w = u + rng.standard_normal((6, 4))
        b = u + rng.standard_normal(4)
        v = centre + rng.standard_normal(6)
        mine, labels = x[owners == client], y[owners == client]
        for row, label in zip(mine, labels, strict=True):
            scores = np.exp([sum(row[f] * w[f, k] for f in range(6)) + b[k] for k in range(4)])
            assert (scores / scores.sum()).argmax() == label
        again = [[v[j] + rng_j * (j + 1) ** -0.6 for j, rng_j in enumerate(rng.standard_normal(6))] for _ in mine]
        np.testing.assert_allclose(again, mine, rtol=1e-5, atol=1e-5)


def test_iid_clients_share_model_and_distribution() -> None:
    made, x, y, owners = pool(clients=4, iid=True, smallest=20_000, size_mean=0.0, size_spread=0.0)
    assert made.name == "synthetic-iid"
    shares = np.stack([np.bincount(y[owners == client], minlength=10) / 20_001 for client in range(4)])
    means = np.stack([x[owners == client].mean(axis=0) for client in range(4)])
    assert np.abs(means).max() < 0.03
    assert np.abs(shares - shares.mean(axis=0)).max() < 0.015
    assert np.ptp(shares.mean(axis=0)) > 0.02  # one drawn model, so classes are not equally frequent


def test_alpha_changes_no_label() -> None:
    """u_k (1 + sum_j x_j) is added to the scores of all classes alike, in the paper's model as in ours."""
    _, x, y, _ = pool(clients=3, alpha=0.0, beta=0.0, largest=60)
    _, other_x, other_y, _ = pool(clients=3, alpha=5.0, beta=0.0, largest=60)
    assert np.array_equal(x, other_x)
    assert np.array_equal(y, other_y)


def test_the_source_has_its_own_clients_and_follows_the_key() -> None:
    assert "synthetic" in sources()
    data = load("synthetic", key=3, largest=100)
    assert (len(data.clients), data.input_shape, data.classes) == (30, (60,), 10)
    assert data.store.inputs.dtype == torch.float32
    assert data.fingerprint() == load("synthetic", key=3, largest=100).fingerprint()
    assert data.fingerprint() != load("synthetic", key=4, largest=100).fingerprint()
    assert len(load("synthetic", clients=7, largest=100).clients) == 7
    assert load("synthetic", alpha=0.5, beta=0.5, largest=60).name == "synthetic(0.5,0.5)"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"alpha": -1}, "'alpha' of 'synthetic' is -1, but a number of at least 0"),
        ({"beta": "1"}, "'beta' of 'synthetic' is '1'"),
        ({"alpha": True}, "'alpha' of 'synthetic' is True"),
        ({"size_mean": float("nan")}, "'size_mean' of 'synthetic' is nan, but a number is needed"),
        ({"size_spread": -1}, "'size_spread' of 'synthetic' is -1"),
        ({"clients": 0}, "'clients' of 'synthetic' is 0, but a whole number of at least 1"),
        ({"dimension": 2.5}, "'dimension' of 'synthetic' is 2.5, but a whole number"),
        ({"classes": 1}, "'classes' of 'synthetic' is 1, but a whole number of at least 2"),
        ({"smallest": 0}, "'smallest' of 'synthetic' is 0"),
        ({"largest": 10}, "'largest' of 'synthetic' is 10, but a whole number of at least 50"),
        ({"iid": 1}, "'iid' of 'synthetic' is 1, but true or false"),
        ({"iid": True, "alpha": 1}, "leave alpha and beta out"),
        ({"alfa": 1}, "has no option 'alfa' .did you mean 'alpha'"),
        ({"partition": {"kind": "iid"}}, "'synthetic.1,1.' has 30 clients of its own, so the partition 'iid'"),
    ],
)
def test_refusals(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load("synthetic", **options)
