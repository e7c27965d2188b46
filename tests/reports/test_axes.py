"""Axes and labels: everything lies on the picture, and labels do not meet."""

import itertools
import math
import re

from hypothesis import given
from hypothesis import strategies as st

from headway.reports.page.axes import Axis, apart, axis, thinned
from headway.reports.page.charts import Line, line_chart

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)
HEIGHTS = st.lists(st.floats(0, 100), min_size=1, max_size=8).map(sorted)


@given(NUMBERS)
def test_all_values_lie_between_the_ends_and_in_order(values):
    found = axis(values, 50, 400)
    places = [found.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(50 <= place <= 400 for place in places)
    assert all(found.low <= tick <= found.high for tick in found.ticks())
    assert len(found.ticks()) >= 1


@given(st.lists(st.floats(1e-3, 1e9), min_size=2, max_size=9))
def test_a_logarithm_is_taken_of_what_spans_decades(values):
    found = axis(values, 0, 100, log=True)
    assert found.log == (max(values) / min(values) > 100)
    assert 1 <= len(found.ticks()) <= 8


def test_what_is_not_positive_has_no_logarithm():
    assert not axis([0.0, 1e6], 0, 100, log=True).log


def test_what_is_not_a_number_does_not_move_an_axis():
    assert axis([1.0, math.nan, 3.0, math.inf], 0, 1) == axis([1.0, 3.0], 0, 1)
    assert axis([math.nan], 0, 1, room=0) == Axis(0.0, 1.0, 0, 1)


@given(HEIGHTS)
def test_labels_stand_apart_in_order_and_inside(values):
    found = apart(values, 10, 0, 100)
    assert all(b - a >= 10 - 1e-9 for a, b in itertools.pairwise(found))
    assert found[0] >= -1e-9
    assert found[-1] <= 100


@given(st.lists(st.integers(), min_size=1, max_size=50), st.integers(2, 20))
def test_thinning_keeps_the_ends(items, most):
    found = thinned(items, most)
    assert len(found) == min(len(items), most)
    assert (found[0], found[-1]) == (items[0], items[-1])


def test_a_line_with_gaps_is_drawn_without_them():
    line = Line(0, "a", (1.0, 2.0, 3.0), *[(0.1, math.nan, 0.3)] * 3)
    picture = line_chart("title", [line], x_name="round")
    assert "nan" not in picture
    assert "&#34;x&#34;:[1,3]" in picture


def test_no_line_is_no_error():
    assert "<svg" in line_chart("title", [], x_name="round")


def test_rounds_are_counted_in_whole_numbers():
    line = Line(0, "a", (1.0, 2.0, 3.0), *[(10.0, 20.0, 30.0)] * 3)
    assert re.findall('class="tick" text-anchor="middle">([^<]*)<', line_chart("title", [line], x_name="round")) == [
        "1",
        "2",
        "3",
    ]
