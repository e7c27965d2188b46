"""Recipes by name."""

import pytest

import headway as hw


def test_plus_ecgr_is_as_the_option_says():
    default = hw.recipes.recipe("fedprox+ecgr", mu=0.1)
    asked = hw.recipes.recipe("fedprox+ecgr", mu=0.1, ecgr=hw.ECGR(select=0.25, rule="smallest"))
    written = hw.recipes.recipe("fedprox+ecgr", mu=0.1, ecgr={"select": 0.25, "rule": "smallest"})
    assert [stage for stage in default.chain if isinstance(stage, hw.ECGR)] == [hw.ECGR()]
    assert [stage for stage in asked.chain if isinstance(stage, hw.ECGR)] == [hw.ECGR(select=0.25, rule="smallest")]
    assert list(written.chain) == list(asked.chain)


def test_an_unknown_recipe_or_option_is_named_with_what_is_near():
    with pytest.raises(hw.ConfigError, match=r"no recipe named 'fedporx\+ecgr'.*fedprox\+ecgr"):
        hw.recipes.recipe("fedporx+ecgr")
    with pytest.raises(hw.ConfigError, match=r"the recipe 'fedprox' has no option 'nu'.*mu"):
        hw.recipes.recipe("fedprox+ecgr", nu=1.0)
