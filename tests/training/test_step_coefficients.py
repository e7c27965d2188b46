"""The steps of a client are combined with the coefficients of the chain's stage, whatever it is given of them."""

from __future__ import annotations

import torch

import headway as hw
from headway.core.context import ClientContext
from headway.core.layout import Layout
from headway.numerics.keys import Key
from headway.training.step_coefficients import StepCombination
from headway.training.trainer import Trained

STEPS = Key.root(3).uniform(5 * 6).reshape(5, 6) - 0.3


def combination(stage: hw.Stage, measure: bool = False) -> tuple[StepCombination, ClientContext]:
    algorithm = hw.Algorithm(hw.chain(stage, hw.Mean()), hw.LocalSGD(lr=0.1), hw.All())
    flows, number = algorithm.flows(), torch.tensor(1.0, dtype=torch.float64)
    ctx = ClientContext(
        0,
        Key.root(1),
        Layout(()),
        flows[-1],
        torch.zeros(6, dtype=torch.float64),
        examples=torch.tensor(4),
        movement=STEPS.sum(0),
        steps=torch.tensor(5),
        effective_lr=number,
        free_effective_lr=number,
        lr_sum=number,
    )
    return StepCombination(algorithm.chain, flows, measure), ctx


def trained(steps: torch.Tensor | None) -> Trained:
    return Trained(STEPS.sum(0), 5, 0.5, 0.5, 0.0, steps=steps)


def test_the_delta_is_the_sum_of_the_steps_by_their_coefficients() -> None:
    made, ctx = combination(hw.ECGR(select=0.5, beta=0.2), measure=True)
    coefficients = made.coefficients(STEPS @ STEPS.T, ctx, ctx.steps, ctx.movement)
    result, delta = made.combined(trained(STEPS), ctx)
    assert len(set(coefficients.tolist())) == 2
    torch.testing.assert_close(delta, coefficients @ STEPS)
    torch.testing.assert_close(result.squares, STEPS.square().sum(1))


def test_the_length_of_the_movement_follows_from_the_gram_matrix_and_padding_changes_nothing() -> None:
    made, ctx = combination(hw.ECGR(select=0.5, beta=0.2))
    padded = torch.cat([STEPS, torch.ones(2, 6, dtype=torch.float64)])
    known = made.coefficients(STEPS @ STEPS.T, ctx, ctx.steps, ctx.movement)
    derived = made.coefficients(padded @ padded.T, ctx, ctx.steps)
    torch.testing.assert_close(derived[:5], known)


def test_the_movement_itself_is_sent_where_all_coefficients_are_one_or_no_step_was_made() -> None:
    made, ctx = combination(hw.ECGR(select=0.5, beta=1.0))
    for one in (trained(STEPS), trained(None)):
        result, delta = made.combined(one, ctx)
        assert delta is one.movement
        assert result is one
