"""Membership inference finds who was trained on where a model has learnt that by heart, and nobody by chance."""

import pytest
import torch
from toys import blobs

import headway as hw
from headway.audit.membership import example_losses, threshold_attack
from headway.audit.membership_attack import MembershipAttack, seconds_of_round
from headway.audit.shadow_federation import ShadowFederation
from headway.core.algorithm import State


def noise(clients=4, size=40, features=60, seed=0):
    """Clients whose labels are drawn at random: whoever fits them has learnt them by heart."""
    generator = torch.Generator().manual_seed(seed)

    def part():
        return torch.randn(size, features, generator=generator), torch.randint(0, 2, (size,), generator=generator)

    return hw.FederatedData.from_clients({f"c{k}": (*part(), *part()) for k in range(clients)}, name="noise")


def attack(data, rounds=4, chain=None, **trainer):
    features = data.input_shape[0]
    task = hw.Task(model=lambda: torch.nn.Linear(features, data.classes), metrics=())
    algorithm = hw.Algorithm(chain or hw.chain(hw.Mean()), hw.LocalSGD(**trainer), hw.All())
    return MembershipAttack(algorithm, ShadowFederation(algorithm, data, task, 0), task, 0, rounds)


def test_the_area_is_the_chance_that_a_member_scores_higher():
    members, others = torch.tensor([1.0, 2.0, 3.0, 3.0]), torch.tensor([0.0, 2.0, 2.5])
    wins = sum((m > o).float() + 0.5 * (m == o).float() for m in members for o in others) / 12
    assert threshold_attack("", members, others).auc == pytest.approx(float(wins))


def test_equal_scores_find_nobody_below_their_rate():
    found = threshold_attack("", torch.zeros(500), torch.zeros(500))
    assert (found.auc, found.found, found.succeeds) == (0.5, 0.0, False)


def test_chance_is_not_a_success():
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(2, 2000, generator=generator) for _ in range(20)]
    assert not any(threshold_attack("", one, other).succeeds for one, other in draws)


def test_few_sure_finds_are_a_success_even_where_the_area_is_near_a_half():
    generator = torch.Generator().manual_seed(0)
    members, others = torch.randn(2, 2000, generator=generator)
    members[:200] += 10
    found = threshold_attack("", members, others)
    assert found.auc < 0.57
    assert found.found == pytest.approx(0.11, abs=0.01)
    assert found.succeeds


def test_what_was_learnt_by_heart_is_found():
    row = attack(noise(features=300), lr=0.5, epochs=20, batch_size=8).row(0)
    assert row.verdict == "succeeded"
    assert row.figures["auc"] > 0.8


def test_what_generalises_is_not():
    found = attack(blobs(sizes=(60,) * 3, test=60), rounds=1, lr=0.05)
    row = found.row(1)
    assert row.verdict == "failed"
    assert row.figures["shadow_models"] == 2
    assert len(found.curves) == 1


def test_shadows_make_the_attack_stronger_where_some_examples_are_hard():
    data = noise(size=60)
    generator = torch.Generator().manual_seed(1)
    store = data.store
    easy = torch.rand(len(store), generator=generator) < 0.7
    store.inputs[easy] += 6 * (2 * store.targets[easy].float() - 1).unsqueeze(1)
    options = {"lr": 0.3, "epochs": 10, "batch_size": 8, "rounds": 2}
    alone, calibrated = attack(data, **options).row(0), attack(data, **options).row(2)
    assert calibrated.figures["auc"] > alone.figures["auc"] + 0.02


def test_halves_are_complementary():
    found = attack(noise())
    (one, inside), (_, outside) = found._half(0, 0), found._half(0, 1)
    assert sorted([*inside.tolist(), *outside.tolist()]) == list(range(len(found.data.store)))
    assert set(one.train) == set(found.data.clients)


def test_noise_hides_who_was_trained_on():
    chain = hw.chain(hw.Clip(0.5), hw.Mean(over="expected"), hw.GaussianNoise(1.0))
    row = attack(noise(features=300), chain=chain, lr=0.5, epochs=20, batch_size=8).row(0)
    assert row.verdict == "failed"


def test_too_few_examples_are_a_note():
    assert "needs 50" in attack(blobs()).missing


def test_losses_are_those_of_the_model():
    data = blobs()
    task = hw.Task(model=lambda: torch.nn.Linear(4, 3), metrics=())
    algorithm = hw.Algorithm(hw.chain(hw.Mean()), hw.LocalSGD(), hw.All())
    federation = ShadowFederation(algorithm, data, task, 0)
    state = State(0, torch.randn(15))
    losses = example_losses(federation.flat_module, state, data.store.inputs, data.store.targets)
    weight, bias = state.params[:12].view(3, 4), state.params[12:]
    outputs = data.store.inputs.float() @ weight.T + bias
    expected = torch.nn.functional.cross_entropy(outputs, data.store.targets, reduction="none")
    assert torch.allclose(losses.float(), expected, atol=1e-5)
    assert seconds_of_round(federation, data.clients) > 0
