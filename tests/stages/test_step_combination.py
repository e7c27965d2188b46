"""ECGR from the Gram matrix is the paper's greedy loop over the vectors."""

from dataclasses import replace

import pytest
import torch
from conformance import reference
from hypothesis import given
from hypothesis import strategies as st

from headway.core.context import CombineContext
from headway.core.flow import Flow
from headway.core.layout import Layout
from headway.numerics.keys import Key
from headway.stages import ECGR

ONE = torch.tensor(1)
CONTEXT = CombineContext(
    0, Key.root(1), Layout(()), Flow(), torch.zeros(0), examples=ONE, steps=ONE, squared_movement=ONE.double()
)


def coefficients(stage: ECGR, made: torch.Tensor, movement=None, **facts) -> torch.Tensor:
    """The stage's coefficients of the steps made, `[..., K, P]`, given the movement that they add up to."""
    movement = made.sum(-2) if movement is None else movement
    squared = torch.linalg.vector_norm(movement, dim=-1) ** 2
    facts = {"steps": torch.full(made.shape[:-2], made.shape[-2]), "squared_movement": squared, **facts}
    return stage.combine(made @ made.mT, replace(CONTEXT, **facts))


def delta(stage: ECGR, steps: torch.Tensor) -> torch.Tensor:
    return coefficients(stage, steps) @ steps


def random_steps(count: int, size: int = 6, seed: int = 0) -> torch.Tensor:
    drift = torch.linspace(-1, 1, size).double()
    return (Key.root(seed).derive(count).uniform(count * size).reshape(count, size) - 0.5) * 3 + drift


def paper(select: float, beta: float, steps: torch.Tensor) -> torch.Tensor:
    return torch.tensor(reference.ecgr(select, beta)(steps.tolist()), dtype=torch.float64)


@pytest.mark.parametrize("first", range(1, 201, 20))
def test_every_number_of_steps_follows_the_papers_loop(first) -> None:
    for count in range(first, first + 20):
        select, beta = (0.5, 0.2) if count % 2 else (0.3, 0.0)
        steps = random_steps(count)
        torch.testing.assert_close(delta(ECGR(select, beta), steps), paper(select, beta, steps), rtol=1e-10, atol=1e-12)


# small whole numbers: ties, duplicates, zeros and cancellations happen, and every inner product is exact
WHOLE_STEPS = st.lists(st.lists(st.integers(-2, 2), min_size=2, max_size=2), min_size=1, max_size=16)


@given(rows=WHOLE_STEPS, select=st.sampled_from([0.1, 0.5, 0.8, 1.0]), beta=st.sampled_from([0.0, 0.25, 1.0]))
def test_ties_zeros_duplicates_and_cancellations_follow_the_papers_loop(rows, select, beta) -> None:
    steps = torch.tensor(rows, dtype=torch.float64)
    torch.testing.assert_close(delta(ECGR(select, beta), steps), paper(select, beta, steps), rtol=1e-12, atol=1e-12)


def test_ties_go_to_the_lowest_index() -> None:
    steps = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    found = coefficients(ECGR(select=0.5, beta=0.0), steps)
    assert (found != 0).tolist() == [i in reference.greedy_indices(steps.tolist(), 0.5) for i in range(4)]
    assert (found != 0).tolist() == [True, True, False, False]


@pytest.mark.parametrize("beta", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("rule", ["greedy", "smallest", "random", "centred"])
def test_the_norm_of_the_movement_is_kept(rule, beta) -> None:
    for count in (2, 9, 40):
        steps = random_steps(count, seed=3)
        found = delta(ECGR(0.5, beta, rule), steps).norm()
        assert float(found) == pytest.approx(float(steps.sum(0).norm()), rel=1e-12)


@pytest.mark.parametrize("scale", [2.0**-60, 3.7, 2.0**80])
def test_scaling_the_steps_scales_the_delta(scale) -> None:
    steps = random_steps(15)
    torch.testing.assert_close(delta(ECGR(), steps * scale), delta(ECGR(), steps) * scale, rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", [[[1, -2], [-1, 2]], [[0, 0]], [[0, 0], [0, 0], [0, 0]], [[3, 1], [-1, 1], [-2, -2]]])
def test_a_client_that_ends_where_it_began_sends_zero(steps) -> None:
    steps = torch.tensor(steps, dtype=torch.float64)
    assert coefficients(ECGR(), steps).tolist() == [0.0] * len(steps)


def test_where_the_selected_steps_cancel_and_the_rest_is_dropped_the_movement_is_sent() -> None:
    steps = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [5.0, 5.0], [6.0, 6.0]], dtype=torch.float64)
    assert coefficients(ECGR(select=0.5, beta=0.0), steps).tolist() == [1.0] * 4


@pytest.mark.parametrize("rule", ["greedy", "smallest", "random", "centred"])
def test_undamped_or_single_steps_keep_their_coefficients_exactly(rule) -> None:
    assert coefficients(ECGR(0.5, 1.0, rule), random_steps(9)).tolist() == [1.0] * 9
    assert coefficients(ECGR(1.0, 0.2, rule), random_steps(9)).tolist() == [1.0] * 9
    assert coefficients(ECGR(0.5, 0.2, rule), random_steps(1)).tolist() == [1.0]


@pytest.mark.parametrize("rule", ["greedy", "smallest", "random", "centred"])
@pytest.mark.parametrize("padding", [0.0, 1e-3, 7.0])
def test_padded_steps_are_never_selected_and_change_nothing(rule, padding) -> None:
    counts = torch.tensor([0, 1, 3, 6])
    steps = torch.stack([random_steps(6, seed=i) for i in range(4)])
    padded = torch.where(torch.arange(6)[:, None] < counts[:, None, None], steps, padding)
    real = torch.stack([row[:n].sum(0) for row, n in zip(steps, counts.tolist(), strict=True)])
    keys = tuple(Key.root(i) for i in range(4))
    together = coefficients(ECGR(0.5, 0.2, rule), padded, steps=counts, movement=real, key=keys)
    for lane, count in enumerate(counts.tolist()):
        assert together[lane, count:].tolist() == [0.0] * (6 - count)
        if count:
            alone = coefficients(ECGR(0.5, 0.2, rule), steps[lane, :count], key=keys[lane])
            torch.testing.assert_close(together[lane, :count], alone, rtol=1e-12, atol=0)


def test_the_other_rules_select_what_they_say() -> None:
    steps = torch.tensor([[4.0, 0.0], [0.0, 1.0], [3.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)

    def chosen(rule: str) -> set[int]:
        return set(coefficients(ECGR(0.5, 0.0, rule), steps).nonzero().flatten().tolist())

    centred = (steps - steps.mean(0)).tolist()
    assert chosen("smallest") == {1, 3}
    assert chosen("centred") == set(reference.greedy_indices(centred, 0.5))
    assert chosen("random") == set(torch.argsort(CONTEXT.uniform(4))[:2].tolist())
