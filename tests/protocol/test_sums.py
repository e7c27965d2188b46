"""The sum over clients."""

import random

import torch

from headway.core.update import Rows, Update
from headway.protocol.sums import ExactTotal, GroupSum


def updates(count: int = 7) -> list[Update]:
    source = torch.Generator().manual_seed(3)
    made = []
    for i in range(count):
        delta = torch.randn(4, generator=source, dtype=torch.float64) * 10.0 ** (5 * i - 15)
        made.append(Update.of(delta, 0.1 * i, control=-delta).with_sums(loss=torch.tensor(0.3 * i)))
    return made


def total_of(terms, wrap=lambda total, term: total.add(term)) -> ExactTotal:
    total = ExactTotal()
    for term in terms:
        wrap(total, term)
    return total


def contents(total: ExactTotal) -> tuple:
    value = total.value()
    named = {**value.vectors, **value.sums, "weight": value.weight}
    return total.count, {name: tensor.tolist() for name, tensor in sorted(named.items())}


def test_any_order_and_any_tree_give_the_same_total() -> None:
    terms = updates()
    for seed in range(20):
        order = random.Random(seed)
        parts = [ExactTotal() for _ in range(3)]
        for term in order.sample(terms, len(terms)):
            order.choice(parts).add(term)
        whole = ExactTotal()
        for part in order.sample(parts, 3):
            whole.merge(part)
        assert contents(whole) == contents(total_of(terms))


def test_integers_add_with_wrap_around() -> None:
    ring = [Update.of(torch.tensor([2**62, -5])) for _ in range(5)]
    total = total_of(ring[:2])
    total.merge(total_of(ring[2:]))
    assert total.value().delta.tolist() == [5 * 2**62 - 2**64, -25]
    assert total.value().delta.dtype == torch.int64
    assert ring[0].delta.tolist() == [2**62, -5]


def test_a_group_adds_in_its_own_order_and_counts_every_client() -> None:
    terms = updates()
    group = GroupSum()
    for term in terms:
        group.add(term)
    before = terms[0].delta.clone()
    total = ExactTotal()
    total.add_group(group)
    summed = terms[0].delta.clone()
    for term in terms[1:]:
        summed += term.delta
    assert torch.equal(total.value().delta, summed)
    assert torch.equal(terms[0].delta, before)
    exact = contents(total_of(terms))
    assert (total.count, total.value().weight.item()) == (exact[0], exact[1]["weight"])
    assert total.value().sums["loss"].item() == exact[1]["loss"]


def test_groups_add_in_any_order() -> None:
    groups = []
    for half in (updates()[:3], updates()[3:]):
        groups.append(GroupSum())
        for term in half:
            groups[-1].add(term)
    ways = [total_of(order, ExactTotal.add_group) for order in (groups, groups[::-1])]
    assert contents(ways[0]) == contents(ways[1])


def test_rows_are_stacked_by_client_name_in_whatever_order_they_came() -> None:
    one, two = ExactTotal(), ExactTotal()
    one.add_row("b", Update.of(torch.tensor([2.0]), 20.0))
    two.add_row("c", Update.of(torch.tensor([3.0]), 30.0))
    two.add_row("a", Update.of(torch.tensor([1.0]), 10.0))
    one.merge(two)
    rows = Rows.of(one.rows)
    assert (rows.names, rows.weights.tolist(), one.count) == (("a", "b", "c"), [10.0, 20.0, 30.0], 3)
    assert rows.vectors["delta"].tolist() == [[1.0], [2.0], [3.0]]


def lanes(count: int = 300, width: int = 1000) -> Update:
    generator = torch.Generator().manual_seed(3)
    delta = torch.randn(count, width, generator=generator)
    scalar = torch.rand(count, 1, generator=generator)
    weight = torch.randint(1, 50, (count,), generator=generator).double()
    return Update({"delta": delta, "normaliser": scalar}, weight, {"effort": torch.rand(count, generator=generator)})


def lifted(update: Update, columns: slice = slice(None)) -> Update:
    return update.scaled_exactly(update.weight)


def test_lanes_add_up_to_what_they_add_up_to_one_by_one() -> None:
    together, one_by_one, update = GroupSum(), GroupSum(), lanes()
    weights = together.add_lanes(update, lifted)
    for lane in range(300):
        one_by_one.add(lifted(update.lane(lane)))
    assert torch.equal(weights, update.weight)
    for name, vector in one_by_one.vectors.items():
        torch.testing.assert_close(together.vectors[name], vector, rtol=1e-12, atol=1e-12)
    mine, theirs = ExactTotal(), ExactTotal()
    mine.add_group(together)
    theirs.add_group(one_by_one)
    assert mine.count == theirs.count == 300
    assert mine.weight.units == theirs.weight.units
    assert mine.sums["effort"].units == theirs.sums["effort"].units


def test_lanes_with_weights_that_are_not_whole_add_exactly() -> None:
    update = lanes(3).with_weight(torch.tensor([0.1, 1e20, -1e20], dtype=torch.float64))
    group = GroupSum()
    group.add_lanes(update, lifted)
    assert group.total.weight.value() == 0.1
