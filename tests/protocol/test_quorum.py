"""A quorum refuses numbers that mean nothing, and describes itself in a line."""

import pytest

from headway.core.errors import ConfigError
from headway.protocol.quorum import Quorum


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"count": 0}, "Quorum.count must be at least 1, found 0"),
        ({"retries": -1}, "Quorum.retries must be at least 0, found -1"),
        ({"cap": 0}, "Quorum.cap must be at least 1, found 0"),
        ({"deadline_s": 0.0}, "Quorum.deadline_s must be above 0 seconds, found 0.0"),
        ({"lost_after_s": -1.0}, "Quorum.lost_after_s must be above 0 seconds"),
        ({"work": "window"}, "no deadline limits the answer of a client"),
        ({"max_age": 3}, "late updates are dropped"),
        ({"late": "sometimes"}, "late"),
        ({"count": True}, "count"),
    ],
)
def test_numbers_out_of_range_and_wrong_types_are_refused(values, problem) -> None:
    with pytest.raises(ConfigError, match=problem):
        Quorum(**values)


def test_the_summary_names_the_end_of_the_round_and_the_treatment_of_late_updates() -> None:
    assert Quorum().summary == "a round ends when all have answered; late updates are dropped"
    kept = Quorum(count=3, deadline_s=20.0, late="keep", max_age=2, retries=1, replace=True, work="partial")
    assert "3 have answered, or after 20 s; late updates are kept, up to 2 rounds old" in kept.summary
    assert "others are asked instead" in kept.summary
