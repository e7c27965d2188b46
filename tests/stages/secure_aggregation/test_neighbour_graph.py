"""The graph of a cohort: complete or regular, and planned by exact tails."""

import math
from itertools import pairwise

import pytest

from headway.stages.secure_aggregation.neighbour_graph import (
    COMPLETE,
    GraphPlan,
    circle_of,
    graph_plan,
    neighbours,
    plan_graph,
    tail,
)


def graph(count, degree, seed=bytes(32)):
    circle = circle_of(range(count), seed)
    return {one: neighbours(circle, place, degree) for place, one in enumerate(circle)}


@pytest.mark.parametrize(("count", "degree"), [(5, 4), (5, 10), (100, 48), (101, 2), (70, 20)])
def test_a_graph_is_regular_symmetric_and_without_loops(count, degree):
    made = graph(count, degree)
    assert made.keys() == set(range(count))
    for one, around in made.items():
        assert len(around) == len(set(around)) == min(degree, count - 1)
        assert one not in around
        assert list(around) == sorted(around)
        assert all(one in made[other] for other in around)


def test_the_seed_draws_the_order():
    circles = {tuple(circle_of(range(20), bytes([number]) * 32)) for number in range(10)}
    assert len(circles) == 10
    assert circle_of(range(20), bytes(32)) == circle_of(range(20), bytes(32))
    first = [circle_of(range(8), number.to_bytes(32, "big"))[0] for number in range(400)]
    assert all(20 < first.count(member) < 80 for member in range(8))


@pytest.mark.parametrize(("population", "marked", "drawn"), [(20, 5, 7), (99, 30, 48), (30, 30, 4), (10, 0, 3)])
def test_tails_are_those_of_exact_counting(population, marked, drawn):
    for least in range(drawn + 2):
        counted = sum(
            math.comb(marked, count) * math.comb(population - marked, drawn - count)
            for count in range(least, drawn + 1)
            if drawn - count <= population - marked
        )
        assert tail(population, marked, drawn, least) == pytest.approx(counted / math.comb(population, drawn), rel=1e-9)


@pytest.mark.parametrize("corrupt", [0.0, 0.1, 0.2, 0.3])
@pytest.mark.parametrize(("clients", "needed"), [(80, 56), (100, 70), (1000, 700), (1000, 900), (5000, 3500)])
def test_a_plan_keeps_its_promises(clients, needed, corrupt):
    plan = plan_graph(clients, needed, corrupt)
    if plan is None:
        assert graph_plan(clients, needed, corrupt) == GraphPlan(clients - 1, needed)
        return
    degree, threshold = plan.degree, plan.threshold
    assert degree % 2 == 0
    assert 0 < threshold <= degree < clients
    colluding = math.floor(corrupt * clients)
    assert clients * tail(clients - 1, colluding, degree, threshold) <= 2**-41
    below = 1 - tail(clients - 1, needed, degree, threshold)
    assert clients * below <= 2**-20 + 1e-12
    assert plan_graph(clients, needed, corrupt) == plan


def test_more_collusion_and_more_dropouts_need_more_neighbours():
    by_corrupt = [plan_graph(1000, 700, corrupt).degree for corrupt in (0.0, 0.1, 0.2, 0.3)]
    by_lost = [plan_graph(1000, needed, 0.1).degree for needed in (950, 800, 700, 600)]
    assert all(one < other for one, other in pairwise(by_corrupt))
    assert all(one < other for one, other in pairwise(by_lost))


def test_small_cohorts_are_complete():
    assert graph_plan(COMPLETE, 45, 0.2) == GraphPlan(COMPLETE - 1, 45)
    assert graph_plan(5, 4, 0.2) == GraphPlan(4, 4)
    assert graph_plan(100, 70, 0.2) == GraphPlan(48, 22)


def test_the_graph_stays_connected_when_clients_are_missing():
    made, missing = graph(100, 48), {number * 2 for number in range(50)}
    left = set(range(100)) - missing
    reached, front = set(), [min(left)]
    while front:
        one = front.pop()
        reached.add(one)
        front += [other for other in made[one] if other in left and other not in reached]
    assert reached == left
