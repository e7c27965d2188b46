"""Gradient inversion finds a picture from its gradient, and finds nothing in noise or in the sum of many."""

import pytest
import torch
from conformance.teststages import FixedPoint, PairwiseMasks
from torch import nn

import headway as hw
from headway.audit.gradient_attack import GradientAttack
from headway.audit.gradient_inversion import InversionEffort, invert, matched, psnr, total_variation
from headway.audit.shadow_federation import ShadowFederation

SIDE = 6
EFFORT = InversionEffort(iterations=200)


def pictures(clients=4, size=12, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def part():
        shades = torch.zeros(size, 1, SIDE, SIDE)
        for each in shades:
            row, column = torch.randint(0, SIDE - 2, (2,), generator=generator).tolist()
            each[0, row : row + 3, column : column + 3] = 1.0
        return shades, torch.randint(0, 3, (size,), generator=generator)

    return hw.FederatedData.from_clients({f"c{k}": (*part(), *part()) for k in range(clients)}, name="squares")


def task():
    return hw.Task(model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 24), nn.Sigmoid(), nn.Linear(24, 3)))


def attack(*stages, plain=None, batch=1, **options):
    algorithm = hw.Algorithm(hw.chain(*stages), hw.LocalSGD(lr=0.1, batch_size=batch), hw.All())
    data = pictures()
    parts = (algorithm, data, task(), 0)
    without = hw.Algorithm(hw.chain(hw.Mean()), algorithm.trainer, algorithm.sampler)
    return GradientAttack(parts, algorithm if plain is None else without, data.clients, EFFORT, **options)


def test_a_picture_is_found_from_its_gradient():
    found = attack(hw.Mean())
    row = found.row()
    assert row.verdict == "succeeded"
    assert row.figures["psnr"] > 20
    assert row.figures["fit"] > 0.99
    assert len(found.galleries[0].items) == 1


def test_nothing_is_found_in_the_sum_of_many():
    row = attack(FixedPoint(), PairwiseMasks(), hw.Mean(), plain=True).row()
    assert row.verdict == "failed"
    assert row.figures["psnr_before"] > 20 > row.figures["psnr"]


def test_larger_batches_are_shown_for_one_record_and_not_judged():
    found = attack(hw.Mean(), batch=12)
    row = found.row()
    assert (row.verdict, row.figures["records"], row.figures["records_of_a_step"]) == ("not judged", 1, 12)
    assert "the size of a batch protects" in row.reason
    assert len(found._federation(found.real).data.train_of(found.client)) == 1


def test_an_attack_repeats():
    assert attack(hw.Mean()).row() == attack(hw.Mean()).row()


def test_the_model_is_left_as_it_was():
    algorithm = hw.Algorithm(hw.chain(hw.Mean()), hw.LocalSGD(), hw.All())
    flat_module = ShadowFederation(algorithm, pictures(), task(), 0).flat_module
    before = flat_module.shared.clone()
    generator = torch.Generator().manual_seed(0)
    invert(flat_module, torch.randn(before.shape), torch.tensor([1]), (0.0, 1.0), generator, InversionEffort(3))
    assert torch.equal(flat_module.shared, before)
    assert all(parameter.grad is None for parameter in flat_module.parameters)


def test_what_is_no_small_picture_is_a_note():
    algorithm = hw.Algorithm(hw.chain(hw.Mean()), hw.LocalSGD(), hw.All())
    data = hw.FederatedData.from_clients({"a": (torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))})
    found = GradientAttack((algorithm, data, task(), 0), algorithm, data.clients, EFFORT)
    assert "small pictures" in found.missing(10)
    assert "parameters" in attack(hw.Mean()).missing(10**8)
    assert attack(hw.Mean()).missing(10) is None


def test_ratios_and_matches():
    one = torch.rand(2, 1, 4, 4)
    assert float(psnr(one, one + 0.1, 1.0)[0]) == pytest.approx(20, abs=1e-3)
    ratios, which = matched(one, one.flip(0), 1.0)
    assert which.tolist() == [1, 0]
    assert float(ratios.min()) > 100
    assert matched(one[:0], one, 1.0)[0].tolist() == [float("-inf")] * 2
    assert float(total_variation(torch.ones(1, 1, 3, 3))) == 0.0
    assert float(total_variation(torch.rand(4))) == 0.0
