"""The account book: every reservation counts, correlated noise once, rounds that are gone through again once more."""

import math
from dataclasses import replace

import pytest

from headway.core.errors import ConfigError
from headway.core.facts import PrivacyEvent
from headway.privacy.account_book import AccountBook, exceeded
from headway.privacy.accountant import epsilon
from headway.privacy.spends import Sampling, Spend, accounts_of

POISSON = Sampling("poisson", 0.1, None, 50, 5.0)
ALL = Sampling("all", None, None, 50, 50.0)
GAUSSIAN = PrivacyEvent("gaussian", 2.0, 1.0)
OWN = PrivacyEvent(
    "skellam", 5.0, 1.0, relation="zero_out", at="distributed", details={"l1": 10.0, "l2": 4.0, "variance": 400.0}
)
ZEROS = replace(GAUSSIAN, relation="zero_out")
MATRIX = PrivacyEvent("matrix", 3.0, 1.0, details={"rounds": 4})


def book_of(*reserved, sampling=POISSON):
    book = AccountBook()
    for round_, *events in reserved:
        book.add(events, round_, sampling)
    return book


def test_rounds_add_up_and_an_aborted_one_stays_spent():
    assert book_of((0, GAUSSIAN), (1, GAUSSIAN)).counts() == {"client": {Spend(2.0, rate=0.1): 2}}
    again = book_of((0, GAUSSIAN), (1, GAUSSIAN), (1, GAUSSIAN))
    assert again.counts() == {"client": {Spend(2.0, rate=0.1): 3}}
    assert again.epsilons(1e-5) == {"client": epsilon({Spend(2.0, rate=0.1): 3}, 1e-5)}


def test_what_clients_and_server_reserve_apart_is_of_one_cohort():
    joined = Spend(2.0, ((10.0, 4.0, 400.0),), relation="zero_out")
    assert book_of((0, OWN), (0, ZEROS)).counts()["client"] == {joined: 1}
    aborted = book_of((0, OWN), (0, OWN), (0, ZEROS))  # it ended before the server drew
    assert aborted.counts()["client"] == {joined: 1, Spend(math.inf, joined.skellam, relation="zero_out"): 1}


def test_sampling_hides_nobody_where_clients_draw_noise():
    """The server, which knows whom it has drawn, has the same promise as all others."""
    for events in ((OWN,), (ZEROS,), (OWN, ZEROS)):
        rounds = [(0, *events), (1, *events)]
        assert book_of(*rounds, sampling=POISSON).epsilons(1e-5) == book_of(*rounds, sampling=ALL).epsilons(1e-5)


def test_correlated_noise_is_one_release_of_all_its_rounds():
    book = book_of(*((round_, MATRIX) for round_ in range(4)), sampling=ALL)
    assert book.counts() == {"client": {Spend(3.0): 1}}
    book.add([MATRIX], 2, ALL)
    assert book.counts() == {"client": {Spend(3.0): 2}}
    with pytest.raises(ConfigError, match="made for 4 rounds, and round 5"):
        book.add([MATRIX], 4, ALL)


def test_correlated_noise_is_never_amplified():
    assert book_of((0, MATRIX)).counts() == {"client": {Spend(3.0): 1}}


def test_a_copy_is_apart():
    book = book_of((0, ZEROS), (0, OWN), (1, MATRIX))
    other = book.copy()
    other.add([ZEROS], 1, POISSON)
    assert book.counts() == book_of((0, ZEROS), (0, OWN), (1, MATRIX)).counts() != other.counts()


def test_the_spends_until_a_round():
    book = book_of((0, OWN), (0, ZEROS), (1, OWN), (1, ZEROS), (1, OWN), (2, MATRIX))
    assert book.until(0).counts() == book_of((0, OWN), (0, ZEROS)).counts()
    assert book.until(1).counts() == book_of((0, OWN), (0, ZEROS), (1, OWN), (1, ZEROS), (1, OWN)).counts()
    assert book.until(2) is book


def test_skipped_rounds_take_their_part_of_delta():
    few = Sampling("poisson", 0.2, None, 40, 8.0, least=2)
    book = book_of((0, GAUSSIAN), (1, GAUSSIAN), sampling=few)
    plain = epsilon({Spend(2.0, rate=0.2): 2}, 1e-2)
    lost = 2 * few.lost_delta
    assert 0 < lost < 1e-2
    assert book.epsilons(1e-2)["client"] == epsilon({Spend(2.0, rate=0.2): 2}, 1e-2 - lost) > plain
    assert book.epsilons(lost / 2)["client"] == math.inf
    # of these it may show who took part, and not what they sent
    assert book_of((0, ZEROS), (1, ZEROS), sampling=few).delta_left("client", 1e-2) == 1e-2


def test_accounts_and_budgets():
    local = PrivacyEvent("gaussian", 2.0, 1.0, at="client")
    assert accounts_of([local, GAUSSIAN]) == ("client", "local")
    assert accounts_of([OWN]) == ("client",)
    assert exceeded({"client": 1.0, "local": 9.0}, {"client": 1.0, "local": 8.0}) == "local"
    assert exceeded({"client": 1.0, "local": 9.0}, {"client": None}) is None
