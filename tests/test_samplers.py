"""What every registered sampler must hold, whatever its idea."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import typing

import pytest
from histories import ALL, COUNTED, PEOPLE, N, history, measured

import headway as hw
from headway.core.sampler import samplers
from headway.data import NumberedNames
from headway.numerics.keys import Key
from headway.protocol.client_history import ClientHistory
from headway.protocol.reports import ClientReport

OURS = [name for name in samplers.names() if samplers.get(name).__module__.startswith("headway.")]
FIELDS = [(name, field.name) for name in ALL for field in dataclasses.fields(ALL[name])]
WRONG = {"a text": "4", "a list": [1, 2], "a table": {"count": 4}, "true": True}


def test_every_registered_sampler_has_an_example():
    assert {type(sampler).__name__ for sampler in ALL.values()} == set(OURS)


@pytest.mark.parametrize("name", list(ALL))
def test_a_draw_is_a_function_of_its_arguments(name):
    """Same key, same cohort, in whatever order the clients are named, and whatever was drawn before."""
    drawn = set()
    for seed, rounds in itertools.product(range(10), (1, 6)):
        key = Key.root(seed)
        cohort = measured(ALL[name], PEOPLE, 7, key, history(rounds=rounds))
        drawn.add(cohort)
        assert list(cohort) == sorted(set(cohort))
        shuffled = random.Random(seed).sample(PEOPLE, N)
        for clients in (shuffled, tuple(shuffled), list(PEOPLE), NumberedNames(N)):
            assert measured(ALL[name], clients, 7, key, history(rounds=rounds)) == cohort
        assert measured(ALL[name], NumberedNames(N), 7, key, history(NumberedNames(N), rounds)) == cohort
    assert len(drawn) == 1 if name in ("All", "Fixed") else len(drawn) > 3


@pytest.mark.parametrize("name", list(COUNTED))
def test_only_available_clients_are_drawn_and_as_many_as_are_missing(name):
    sampler, known, available = COUNTED[name], history(), PEOPLE[1:7]
    for seed in range(10):
        key = Key.root(seed)
        asked = sampler.measured(available, 7, key, known)
        known.set_fresh_losses([ClientReport(c, "counted", metrics={"train_loss": 1.0}) for c in asked])
        for busy, expected in ((0, 4), (1, 3), (3, 1), (4, 0), (9, 0)):
            cohort = sampler.draw(available, 7, key, known, busy=busy)
            assert len(cohort) == expected
            assert set(cohort) <= set(available)
    assert not sampler.enough(PEOPLE[:3])
    assert sampler.enough(PEOPLE[:4])
    assert sampler.facts(N).expected == 4
    few = PEOPLE[:2]
    known.set_fresh_losses([ClientReport(c, "counted", metrics={"train_loss": 1.0}) for c in few])
    assert sampler.draw(few, 7, Key.root(0), known, busy=1) == few
    with pytest.raises(hw.ConfigError, match="asked to draw from 2 clients only"):
        sampler.draw(few, 7, Key.root(0), known)


@pytest.mark.parametrize("name", ["BySize", "RoundRobin", "LeastAvailable", "PowerOfChoice", "rpow-d", "Oort"])
def test_a_sampler_that_reads_a_history_must_be_given_one(name):
    with pytest.raises(hw.ConfigError, match=f"{type(COUNTED[name]).__name__} draws by the clients' history"):
        COUNTED[name].draw(PEOPLE, 0, Key.root(0))
    with pytest.raises(hw.ConfigError, match="the client 'nobody' is not in the population"):
        COUNTED[name].draw(("nobody", *PEOPLE), 0, Key.root(0), history())


@pytest.mark.parametrize("name", ALL)
def test_a_sampler_is_rebuilt_from_its_name_and_numbers(name):
    described = json.loads(json.dumps(samplers.describe(ALL[name])))
    rebuilt = samplers.build(described)
    assert (rebuilt, repr(rebuilt), hash(rebuilt)) == (ALL[name], repr(ALL[name]), hash(ALL[name]))


@pytest.mark.parametrize(("name", "field"), FIELDS)
@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_type_is_refused_by_the_name_of_its_field(name, field, kind):
    sampler, value = ALL[name], WRONG[kind]
    wanted = typing.get_type_hints(type(sampler))[field]
    if (kind == "true" and wanted is bool) or (kind == "a list" and "tuple" in str(wanted)):
        value = 3.5
    with pytest.raises(hw.ConfigError, match=rf"{type(sampler).__name__}\.{field} must be "):
        dataclasses.replace(sampler, **{field: value})


@pytest.mark.parametrize("name", ALL)
def test_the_facts_hold(name):
    """The population, and the sizes of cohorts: always, of a fixed number; on average, of one that is drawn."""
    sampler, rounds = ALL[name], 60
    facts = sampler.facts(N)
    known = history()
    sizes = [len(measured(sampler, PEOPLE, 7, Key.root(seed), known)) for seed in range(rounds)]
    assert facts.population == N
    assert sampler.facts(None).population is None
    assert facts.expected is not None
    if facts.rate is None:
        assert set(sizes) == {facts.expected}
    else:
        spread = (N * facts.rate * (1 - facts.rate) / rounds) ** 0.5
        assert abs(sum(sizes) / rounds - facts.expected) < 4 * spread
        assert facts.most is None or max(sizes) <= facts.most


@pytest.mark.parametrize("name", ALL)
def test_no_more_of_the_history_is_read_than_the_facts_say(name):
    sampler, whole = ALL[name], history()
    part = ClientHistory.of(sampler.facts(N), PEOPLE, whole.sizes)
    cohorts = [measured(sampler, PEOPLE, 7, Key.root(3), known) for known in (history(), filled(part))]
    assert cohorts[0] == cohorts[1]


def filled(part: ClientHistory | None) -> ClientHistory | None:
    """The history of `history()`, of which only these columns are kept."""
    if part is not None:
        part.restore(history().tensors())
    return part


@pytest.mark.parametrize("name", ALL)
def test_a_draw_leaves_the_history_as_it_is(name):
    known = history()
    before = {column: tensor.clone() for column, tensor in known.tensors().items()}
    measured(ALL[name], PEOPLE, 7, Key.root(0), known)
    after = known.tensors()
    assert all(
        bool(((after[column] == old) | (after[column] != after[column])).all()) for column, old in before.items()
    )


@pytest.mark.parametrize("name", ALL)
def test_a_cohort_is_of_available_clients_or_refused(name):
    """Also of one client, of no client, and of just as many as are drawn."""
    for available in ((), PEOPLE[:1], PEOPLE[2:6]):
        sampler, known = ALL[name], history()
        if not sampler.enough(available):
            continue
        cohort = measured(sampler, available, 7, Key.root(1), known)
        assert set(cohort) <= set(available)
