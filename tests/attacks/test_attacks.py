"""Attacks against their closed forms."""

import json

import pytest
import torch
from conformance.robust_cases import draws

from headway.attacks import (
    ALIE,
    Attack,
    AttackPlan,
    AttackView,
    Backdoor,
    FallOfEmpires,
    GaussianUpdate,
    HeavyWeight,
    InnerProduct,
    LabelFlip,
    LineSearch,
    Mimic,
    NotFinite,
    ScaledUpdate,
    SignFlip,
    Sybils,
    ZeroUpdate,
)
from headway.attacks.colluding import hiding_z
from headway.core.errors import ConfigError
from headway.data import Examples
from headway.numerics.distances import products_about_middle, squared_distances
from headway.numerics.keys import Key
from headway.stages import Krum
from headway.stages.robust.krum import by_score, chosen

KEY = Key.root(3)


def krum(updates):
    return chosen(by_score(squared_distances(products_about_middle([updates])), 2), 1) @ updates


def view(knows="everyone", rule=krum):
    own, others = draws("own", 2, 6), draws("others", 7, 6) + 1.0
    return AttackView(4, KEY, own, others if knows == "everyone" else None, torch.tensor([3.0, 5.0]), rule, 9)


EVERY = [
    *(SignFlip(), SignFlip(2.0), GaussianUpdate(), NotFinite(), NotFinite("inf"), ZeroUpdate(), ScaledUpdate()),
    *(HeavyWeight(), ALIE(), ALIE(1.5), InnerProduct(), FallOfEmpires(), Mimic(), Mimic(3), LabelFlip(), Backdoor()),
    *(LineSearch(), LineSearch(InnerProduct()), LineSearch(FallOfEmpires())),
    *(Sybils(), Sybils(SignFlip(2.0), noise=0.1), Sybils(HeavyWeight())),
]


def test_every_attack_has_an_example():
    assert {type(attack).__name__ for attack in EVERY} == set(Attack.registry.names())


@pytest.mark.parametrize("attack", EVERY, ids=repr)
def test_an_attack_is_rebuilt_from_its_name_and_numbers_and_repeats(attack):
    assert Attack.registry.build(json.loads(json.dumps(Attack.registry.describe(attack)))) == attack
    for knows in ("everyone", "attackers"):
        given = view(knows)
        before = given.own.clone()
        one, other = attack.craft(given), attack.craft(given)
        assert one.shape == given.own.shape
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(given.own, before)


def test_the_closed_forms():
    v = view()
    mean, std = v.others.mean(0), v.others.std(0, unbiased=False)
    expected = {
        SignFlip(2.0): -2 * v.own,
        ZeroUpdate(): torch.zeros(2, 6).double(),
        ScaledUpdate(7.0): 7 * v.own,
        ALIE(1.5): (mean - 1.5 * std).expand(2, -1),
        ALIE(): (mean - hiding_z(9, 2) * std).expand(2, -1),
        InnerProduct(3.0): (-3 * mean).expand(2, -1),
        FallOfEmpires(10.0): (-9 * mean).expand(2, -1),
        Mimic(3): v.others[3].expand(2, -1),
        Backdoor(): 4.5 * v.own,
        Backdoor(boost=2.0): 2 * v.own,
        LabelFlip(): v.own,
        Sybils(): v.own[:1].expand(2, -1),
        Sybils(SignFlip(2.0)): -2 * v.own[:1].expand(2, -1),
    }
    for attack, crafted in expected.items():
        torch.testing.assert_close(attack.craft(v), crafted)
    assert HeavyWeight(10.0).weights(v).tolist() == [30.0, 50.0]


def test_attackers_that_know_only_themselves_estimate_honest_updates_by_their_own():
    v = view("attackers")
    torch.testing.assert_close(InnerProduct(3.0).craft(v)[0], -3 * v.own.mean(0))
    assert v.everyone(v.own).shape == (9, 6)


def test_z_is_that_of_the_paper():
    """arXiv 1902.06156, section 4: n = 50 and m = 24 give s = 2, (26 - 2) / 26 and z = 1.43."""
    assert hiding_z(50, 24) == pytest.approx(1.4261, abs=1e-3)
    assert hiding_z(50, 12) == pytest.approx(0.3360, abs=1e-3)


@pytest.mark.parametrize("of", [ALIE(), InnerProduct(), FallOfEmpires()], ids=repr)
@pytest.mark.parametrize("knows", ["everyone", "attackers"])
def test_a_line_search_moves_the_rule_at_least_as_far_as_any_scale_of_a_grid(of, knows):
    v = view(knows)

    def moved(crafted):
        return float((v.rule(v.everyone(crafted)) - v.honest.mean(0)).norm())

    best = moved(LineSearch(of).craft(v))
    assert all(best >= moved(of.at(2.0**power).craft(v)) - 1e-12 for power in range(-3, 8))


def test_a_line_search_finds_a_scale_between_powers_of_two():
    """Krum takes the crafted update as long as it hides: the best scale is at the edge, between two powers."""
    v = view()
    searched = float((v.rule(v.everyone(LineSearch(ALIE()).craft(v))) - v.others.mean(0)).norm())
    fine = max(float((v.rule(v.everyone(ALIE(z / 50).craft(v))) - v.others.mean(0)).norm()) for z in range(1, 400))
    assert searched >= 0.8 * fine


def test_the_noise_is_fresh_in_each_round_and_has_its_deviation():
    own = torch.zeros(3, 20_000).double()
    noise = GaussianUpdate(2.0).craft(AttackView(0, KEY, own, None, torch.ones(3), krum, 9))
    other = GaussianUpdate(2.0).craft(AttackView(1, KEY.derive(1), own, None, torch.ones(3), krum, 9))
    assert float(noise.std()) == pytest.approx(2.0, rel=0.02)
    assert not torch.equal(noise, other)
    assert not torch.equal(noise[0], noise[1])


def test_the_noise_of_sybils_cancels_and_has_its_length():
    own = draws("sybils", 3, 20_000)
    v = AttackView(0, KEY, own, None, torch.ones(3), krum, 9)
    sent = Sybils(SignFlip(), noise=0.1).craft(v)
    torch.testing.assert_close(sent.mean(0), -own[0])
    apart = (sent + own[0]).norm(dim=1) / own[0].norm()
    torch.testing.assert_close(apart, torch.full((3,), 0.1 * (2 / 3) ** 0.5).double(), rtol=0.02, atol=0)
    assert Sybils(LabelFlip()).poisons
    assert not Sybils(SignFlip()).poisons
    examples = Examples(torch.zeros(2, 2), torch.tensor([0, 9]))
    assert Sybils().poison(examples, 10, KEY).targets.tolist() == [9, 0]
    assert Sybils(HeavyWeight(10.0)).weights(view()).tolist() == [30.0, 50.0]


def test_labels_are_flipped():
    examples = Examples(torch.zeros(3, 2), torch.tensor([0, 4, 9]))
    assert LabelFlip().poison(examples, 10, KEY).targets.tolist() == [9, 5, 0]
    values = Examples(torch.zeros(2, 2), torch.tensor([1.5, -2.0]))
    assert LabelFlip().poison(values, None, KEY).targets.tolist() == [-1.5, 2.0]
    several = Examples(torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    assert LabelFlip().poison(several, None, KEY).targets.tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_a_backdoor_marks_a_share_of_the_examples():
    examples = Examples(torch.zeros(10, 1, 4, 4), torch.full((10,), 3))
    bad = Backdoor(target=7, share=0.3).poison(examples, 10, KEY)
    marked = bad.inputs.flatten(1).any(1)
    assert int(marked.sum()) == 3
    assert torch.equal(marked, bad.targets == 7)
    assert bad.inputs[marked][0, 0].tolist() == [[0] * 4, [0] * 4, [0, 0, 1, 1], [0, 0, 1, 1]]
    assert not examples.inputs.any()
    assert Backdoor(value=2.0).stamped(torch.zeros(1, 5)).tolist() == [[0, 0, 0, 2, 2]]
    with pytest.raises(ConfigError, match=r"Backdoor.target is 7, but the data have 5"):
        Backdoor(target=7).poison(examples, 5, KEY)


def test_a_plan_names_its_attackers():
    clients = ["d", "b", "a", "c"]
    assert AttackPlan(SignFlip(), count=2).among(clients) == ("c", "d")
    assert AttackPlan(SignFlip(), attackers=("a",)).among(clients) == ("a",)
    assert AttackPlan(SignFlip(), count=2).among(clients, trusted="d") == ("b", "c")
    with pytest.raises(ConfigError, match="'a' holds the server's own data"):
        AttackPlan(SignFlip(), attackers=("a",)).among(clients, trusted="a")
    with pytest.raises(ConfigError, match="at least one must be honest"):
        AttackPlan(SignFlip(), count=3).among(clients, trusted="d")
    with pytest.raises(ConfigError, match="'x' is none of the 4 clients"):
        AttackPlan(SignFlip(), attackers=("x",)).among(clients)
    with pytest.raises(ConfigError, match="at least one must be honest"):
        AttackPlan(SignFlip(), count=4).among(clients)
    with pytest.raises(ConfigError, match="either the names"):
        AttackPlan(SignFlip())
    with pytest.raises(ConfigError, match="either the names"):
        AttackPlan(SignFlip(), attackers=("a",), count=1)
    with pytest.raises(ConfigError, match=r"LineSearch.of must be ALIE"):
        LineSearch(SignFlip())
    assert Krum(2).f == 2
