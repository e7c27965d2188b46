"""The exact sum has the same bits for every order and every tree of merging, and they are the right bits."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway.core.errors import HeadwayError
from headway.numerics import exact_sum as exact
from headway.numerics.exact_sum import ExactScalar, ExactSum

PLAIN = st.floats(-1e3, 1e3)
WILD = st.builds(lambda m, e: m * 10.0**e, st.floats(-9.9, 9.9), st.integers(-300, 200))
TINY = st.builds(lambda units: units * 2.0**-1074, st.integers(-(2**51), 2**51))
CARRYING = st.builds(lambda m, e: m * 2.0**e, st.integers(-(2**53) + 1, 2**53 - 1), st.sampled_from([-64, 0, 11, 43]))
NUMBERS = st.one_of(PLAIN, WILD, TINY, CARRYING, st.sampled_from([0.0, -0.0, 1e16, -1e16, 2.0**895, -(2.0**895)]))
TERMS = st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=24)
CAPACITIES = st.sampled_from([2, 3, 5, 2**20])


def tree(terms, kind, order):
    """The terms added in random order to random parts, which are merged in random order."""
    terms = list(terms)
    order.shuffle(terms)
    parts = [kind() for _ in range(order.randint(1, 4))]
    for term in terms:
        order.choice(parts).add(term)
    while len(parts) > 1:
        other = parts.pop(order.randrange(len(parts)))
        order.choice(parts).merge(other)
    return parts[0]


def in_order(terms, kind):
    total = kind()
    for term in terms:
        total.add(term)
    return total


def bits(vector: torch.Tensor) -> list[int]:
    return vector.view(torch.int64).tolist()


def tensors(rows) -> list[torch.Tensor]:
    with_both_ends = [[*row, -row[0]] for row in rows]
    return [torch.tensor(row, dtype=torch.float64) for row in with_both_ends]


@given(rows=TERMS, order=st.randoms(use_true_random=False), capacity=CAPACITIES)
def test_any_order_and_any_merge_tree_give_the_same_bits(rows, order, capacity) -> None:
    terms = tensors(rows)
    once = in_order(terms, ExactSum).value()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "CAPACITY", capacity)
        assert bits(tree(terms, ExactSum, order).value()) == bits(once)


@given(rows=TERMS)
def test_the_value_is_the_real_sum_to_one_unit_in_the_last_place(rows) -> None:
    terms = tensors(rows)
    value = in_order(terms, ExactSum).value()
    for i in range(4):
        truth = sum(Fraction(float(term[i])) for term in terms)
        assert abs(Fraction(float(value[i])) - truth) <= Fraction(math.ulp(float(truth)))


@given(rows=TERMS)
def test_the_value_is_near_the_float64_sum(rows) -> None:
    terms = torch.stack(tensors(rows))
    value = in_order(terms, ExactSum).value()
    scale = terms.abs().amax(0)
    assert bool(((value - terms.sum(0)).abs() <= 1e-7 * scale).all())


@given(rows=TERMS, order=st.randoms(use_true_random=False))
def test_terms_and_their_negatives_cancel_to_zero(rows, order) -> None:
    terms = tensors(rows)
    assert not tree([*terms, *(-term for term in terms)], ExactSum, order).value().any()


@pytest.mark.parametrize("term", [2.0**-1024 - 2.0**-1074, 2.0**-1022 - 2.0**-1074, 5e-324, 1.1e-308])
def test_many_subnormal_terms_add_exactly(term) -> None:
    total = in_order([torch.tensor([term, -term], dtype=torch.float64)] * 1001, ExactSum)
    truth = float(Fraction(term) * 1001)
    assert total.value().tolist() == [truth, -truth]


def test_carrying_between_bins_changes_no_bit(monkeypatch) -> None:
    full = 2.0**32 - 1
    rows = [[sign * full, full, -full] for sign in (1, 1, 1, -1, -1) * 40]
    terms = [torch.tensor(row, dtype=torch.float64) for row in rows]
    far = in_order(terms, ExactSum)
    monkeypatch.setattr(exact, "CAPACITY", 2)
    near = in_order(terms, ExactSum)
    assert near.terms <= 2 < far.terms
    assert bits(near.value()) == bits(far.value())
    assert near.value().tolist() == [40 * full, 200 * full, -200 * full]


def test_neither_a_term_nor_a_merged_sum_nor_a_value_is_shared() -> None:
    term = torch.tensor([1.0], dtype=torch.float64)
    one, empty = in_order([term], ExactSum), ExactSum()
    empty.merge(one)
    value = empty.value()
    empty.add(term)
    assert (term.item(), value.item(), one.value().item(), empty.value().item()) == (1.0, 1.0, 1.0, 2.0)


@pytest.mark.parametrize("doublings", [10, 20, 21, 40])
def test_more_terms_than_a_bin_can_hold_are_carried_in_time(doublings) -> None:
    def many(term: float) -> ExactSum:
        total = in_order([torch.tensor([term], dtype=torch.float64)], ExactSum)
        for _ in range(doublings):
            total.merge(ExactSum({k: held.clone() for k, held in total.bins.items()}, total.terms))
        return total

    total = many(2.0**32 - 1)
    total.add(torch.ones(1))
    total.merge(many(1.0 - 2.0**32))
    assert total.value().item() == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_terms_are_widened_first(dtype) -> None:
    term = torch.tensor([0.1, -3.0]).to(dtype)
    assert in_order([term] * 3, ExactSum).value().tolist() == [math.fsum([x] * 3) for x in term.double().tolist()]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 2.0**896, -1.7e308])
def test_what_cannot_be_summed_is_refused_and_leaves_the_sum_alone(bad) -> None:
    total = in_order([torch.tensor([1.0, 2.0])], ExactSum)
    with pytest.raises(HeadwayError, match="finite terms"):
        total.add(torch.tensor([0.0, bad], dtype=torch.float64))
    assert total.value().tolist() == [1.0, 2.0]
    assert total.terms == 1


def test_a_sum_of_nothing_has_no_shape_and_an_empty_vector_has_one() -> None:
    with pytest.raises(HeadwayError, match="no terms"):
        ExactSum().value()
    assert in_order([torch.empty(0)], ExactSum).value().shape == (0,)


@given(terms=st.lists(NUMBERS, min_size=1, max_size=24), order=st.randoms(use_true_random=False))
def test_a_scalar_sum_is_correctly_rounded_in_any_tree(terms, order) -> None:
    assert tree(terms, ExactScalar, order).value() == float(sum(map(Fraction, terms)))


def test_a_scalar_sum_may_leave_float64_and_come_back() -> None:
    total = in_order([1.7e308] * 4, ExactScalar)
    assert total.value() == math.inf
    total.merge(in_order([-1.7e308] * 3, ExactScalar))
    assert total.value() == 1.7e308
    assert in_order([-1.7e308] * 2, ExactScalar).value() == -math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_scalar_sum_refuses_what_is_not_finite(bad) -> None:
    with pytest.raises(HeadwayError, match="finite terms"):
        ExactScalar().add(bad)


def test_sums_of_zeros_pass_the_capacity(monkeypatch) -> None:
    """Nothing was ever put into a bin, so there is nothing to carry."""
    monkeypatch.setattr(exact, "CAPACITY", 2)
    total, other = ExactSum(), ExactSum(terms=2)
    total.merge(other)
    total.merge(other)
    total.add(torch.zeros(2))
    total.add(torch.ones(2))
    assert total.value().tolist() == [1.0, 1.0]


@given(TERMS, st.randoms(use_true_random=False))
def test_a_sum_in_whole_numbers_is_the_same_sum(terms, order):
    terms = [torch.tensor(term, dtype=torch.float64) for term in terms]
    parts = [
        tree(terms[: len(terms) // 2] or terms[:1], ExactSum, order),
        tree(terms[len(terms) // 2 :], ExactSum, order),
    ]
    sent = ExactSum()
    for part in parts:
        digits = part.digits()
        assert all(not each.is_floating_point() for each in digits.values())
        back = ExactSum.of_digits(digits)
        assert torch.equal(back.value(), part.value())
        sent.merge(back)
    parts[0].merge(parts[1])
    assert torch.equal(sent.value(), parts[0].value())


def test_digits_take_few_bytes_and_those_of_nothing_none():
    total = ExactSum()
    assert total.digits() == {}
    for _ in range(100):
        total.add(torch.randn(50))
    assert sum(each.element_size() for each in total.digits().values()) <= 9


@pytest.mark.parametrize("number", [2**33, -(2**33), -(2**63)])
def test_digits_that_no_sum_has_are_refused(number):
    with pytest.raises(HeadwayError, match="beyond 2"):
        ExactSum.of_digits({0: torch.tensor([number])})
