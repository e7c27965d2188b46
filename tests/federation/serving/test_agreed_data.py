"""Clients whose data have another form are refused, with both sides."""

import pytest

from headway.data.sources.data_schema import schema_of
from headway.federation.http_api import DataFacts
from headway.federation.serving.agreed_data import AgreedData
from headway.federation.serving.refusals import Refused

SCHEMA = schema_of(
    {
        "kind": "table",
        "target": "ill",
        "classes": ["no", "yes"],
        "columns": [{"name": "age", "kind": "numeric"}, {"name": "sex", "kind": "category", "values": ["f", "m"]}],
    }
)
FACTS = {"train": 5, "input_shape": (3,), "classes": ("no", "yes"), "features": ("age", "sex=f", "sex=m")}


def facts(**changes):
    return DataFacts(**{**FACTS, **changes})


@pytest.mark.parametrize("agreed", [AgreedData(SCHEMA), AgreedData()], ids=["schema", "first client"])
def test_the_same_form_is_taken_and_any_other_refused(agreed):
    agreed.check("a", facts())
    agreed.check("b", facts(train=9, test=3))
    for changes, needed, found in (
        ({"classes": ("yes", "no")}, "no, yes", "yes, no"),
        ({"classes": None}, "no, yes", "none .values to predict."),
        ({"features": ("sex=f", "sex=m", "age")}, "age, sex=f, sex=m", "sex=f, sex=m, age"),
        ({"features": ()}, "age, sex=f, sex=m", "none"),
        ({"input_shape": (4,)}, r"\[3\]", r"\[4\]"),
    ):
        with pytest.raises(Refused, match=f"client 'b' have the .* {found}, and .* has {needed}") as refused:
            agreed.check("b", facts(**changes))
        assert refused.value.problem.kind == "mismatch"


def test_long_lists_are_shown_from_the_first_difference():
    names = tuple(f"f{place}" for place in range(50))
    agreed = AgreedData()
    agreed.check("a", facts(features=names))
    with pytest.raises(Refused, match=r"features 'f12' as number 12 of 50, and .* has 'f11' as number 12 of 50"):
        agreed.check("b", facts(features=(*names[:11], names[12], names[11], *names[13:])))
    with pytest.raises(Refused, match=r"features 49 in all, and .* has 'f49' as number 50 of 50"):
        agreed.check("b", facts(features=names[:49]))


def test_a_client_that_was_refused_decides_nothing():
    agreed = AgreedData()
    agreed.check("a", facts())
    for _ in range(2):
        with pytest.raises(Refused, match="client 'a', which joined first, has no, yes"):
            agreed.check("b", facts(classes=("0", "1")))
