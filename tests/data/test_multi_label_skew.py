"""Clients whose several labels are opposite are not called alike, whatever number type the labels have."""

import numpy as np
import pytest
from mk import toml

from headway.data import FederatedData, skew_of


def clients(number, shares, seed=0):
    """Clients of 60 examples with 6 labels each, label l of client c being 1 with probability shares[c][l]."""
    r = np.random.default_rng(seed)
    return {
        f"c{c}": (r.normal(size=(60, 4)), (r.random((60, 6)) < np.array(share)).astype(number))
        for c, share in enumerate(shares)
    }


@pytest.mark.parametrize("number", [int, "float32", bool])
def test_opposite_clients_are_apart_and_like_ones_are_not(number):
    opposite = [[0.8] * 3 + [0.2] * 3, [0.2] * 3 + [0.8] * 3]
    found = skew_of(FederatedData.from_clients(clients(number, opposite)))
    assert found.targets.weighted > 3 * found.targets.chance
    assert "frequencies of labels" in found.sentence()
    assert "times as far apart as by chance" in found.sentence()
    alike = skew_of(FederatedData.from_clients(clients(number, [[0.5] * 6] * 8)))
    assert "frequencies of labels as alike as chance would make them" in alike.sentence()


def test_what_chance_gives_several_targets_is_what_chance_gives():
    found = [skew_of(FederatedData.from_clients(clients(int, [[0.5] * 6] * 5, seed))).targets for seed in range(40)]
    assert np.mean([each.mean for each in found]) == pytest.approx(found[0].chance, rel=0.05)


def test_opposite_labels_that_are_constant_within_a_client_show_in_the_command(tmp_path, headway):
    y = np.zeros((80, 4), int)
    y[:40, :2], y[40:, 2:] = 1, 1
    np.savez(tmp_path / "m.npz", x=np.random.default_rng(0).normal(size=(80, 5)), y=y, client=np.arange(80) // 40)
    toml(tmp_path / "m.toml", f'source = "{tmp_path / "m.npz"}"')
    code, out, err = headway("partition", tmp_path / "m.toml")
    assert code == 0, err
    assert "frequencies of labels" in out
    assert "as alike as chance" not in out.split("frequencies of labels")[1].split(";")[0]
