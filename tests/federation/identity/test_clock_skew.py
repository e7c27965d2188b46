"""Two clocks that differ are said, with both times."""

import pytest

from headway.federation.identity.clock_skew import clock_difference, clock_sentence

NOON = {"Date": "Thu, 01 Jan 1970 12:00:00 GMT"}


def test_clocks_that_agree_are_no_news():
    assert clock_sentence(NOON, 43200.0 + 299) is None
    assert clock_sentence(NOON, 43200.0 - 299) is None


@pytest.mark.parametrize(("now", "words"), [(46800.0, "60 minutes ahead of"), (39600.0, "60 minutes behind")])
def test_a_difference_has_both_times(now, words):
    sentence = clock_sentence(NOON, now)
    assert words in sentence
    assert "1970-01-01 12:00 UTC" in sentence
    assert f"1970-01-01 {int(now // 3600)}:00 UTC" in sentence


@pytest.mark.parametrize("date", [None, "", "yesterday", "Thu, 99 Jan 1970 12:00:00 GMT"])
def test_an_answer_without_a_date_is_no_news(date):
    headers = {} if date is None else {"Date": date}
    assert clock_difference(headers) is None
    assert clock_sentence(headers) is None
