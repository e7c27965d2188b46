"""How many clients a round needs."""

import pytest
import torch

from headway.core.errors import ChainRefused
from headway.protocol.messages import Ask, Message, Train
from headway.protocol.quorum import Quorum
from headway.stages.secure_aggregation.sum_rules import RoundEnded, Rules

RULES = Rules(0.7, 5, 4, 0.2)


@pytest.mark.parametrize(("clients", "needed"), [(5, 4), (6, 5), (10, 7), (30, 21), (100, 70), (101, 71), (0, 4)])
def test_the_threshold_is_rounded_up(clients, needed):
    assert RULES.needed(clients) == needed


def test_too_small_a_cohort_ends_the_round():
    RULES.check_cohort(5)
    with pytest.raises(RoundEnded, match="4 clients were asked, and a secure sum is over at least 5"):
        RULES.check_cohort(4)


@pytest.mark.parametrize("count", [None, 7, 10])
def test_a_quorum_that_reaches_the_threshold(count):
    RULES.check_quorum(Ask(Train(Message(torch.empty(0))), tuple("abcdefghij"), Quorum(count)))


def test_a_quorum_below_the_threshold_is_refused():
    with pytest.raises(ChainRefused, match="at least 7 updates of the 10 clients") as refused:
        RULES.check_quorum(Ask(Train(Message(torch.empty(0))), tuple("abcdefghij"), Quorum(6)))
    assert "count=6" in refused.value.caused_by
