"""The ledger: a release is written before it is made, and refused before it would pass the budget."""

import pytest

from headway.core.errors import PrivacyBudgetSpent
from headway.core.facts import PrivacyEvent
from headway.privacy.accountant import epsilon
from headway.privacy.ledger import Ledger, PrivacySpent, book_of, epsilon_text
from headway.privacy.ledger_file import LedgerFile
from headway.privacy.options import PrivacyOptions
from headway.privacy.spends import Sampling, Spend
from headway.privacy.terms import PrivacyTerms
from headway.protocol.effects import Reserve

GAUSSIAN = PrivacyEvent("gaussian", 1.0, 0.5, ("delta", "buffers"))
LOCAL = PrivacyEvent("gaussian", 4.0, 1.0, at="client")
POISSON = Sampling("poisson", 0.1, None, 50, 5.0)


def ledger(*events, path=None, sampling=POISSON, **options):
    terms = PrivacyTerms(events or (GAUSSIAN,), sampling, 50, {"clip": {"bound": 1.0}}, ({"what": "metrics"},))
    return Ledger(terms, PrivacyOptions(**{"delta": 1e-5, **options}), LedgerFile(path))


def reserve(made, round_, *events):
    made.reserve(Reserve(events or made.terms.events, round_), asked=4, population=50)


def test_an_entry_holds_what_is_needed_to_judge_a_release(tmp_path):
    made = ledger(path=tmp_path / "ledger.jsonl", epsilon=3.0)
    reserve(made, 0)
    start, entry = LedgerFile(tmp_path / "ledger.jsonl").entries
    assert start["kind"] == "start"
    assert start["budget"] == {
        "epsilon": 3.0,
        "example_epsilon": None,
        "local_epsilon": None,
        "delta": 1e-5,
    }
    assert start["accountant"].startswith("dp-accounting 0.")
    assert start["terms"]["units"] == {"client": "one client with all of its data"}
    assert start["terms"]["relations"] == ["add_remove"]
    assert start["terms"]["population"] == 50
    assert start["terms"]["clip"] == {"bound": 1.0}
    assert start["terms"]["other_releases"] == [{"what": "metrics"}]
    assert (entry["kind"], entry["round"], entry["asked"], entry["population"]) == ("reserve", 1, 4, 50)
    assert entry["events"][0]["covers"] == ["delta", "buffers"]
    assert entry["sampling"]["rate"] == 0.1
    assert entry["sampling"]["amplifies"] is True
    assert entry["epsilon"] == {"client": epsilon({Spend(1.0, rate=0.1): 1}, 1e-5)}
    assert entry["method"] == {"client": "privacy loss distribution"}


def test_the_round_that_would_pass_the_budget_is_refused_before_it_is_written(tmp_path):
    limit = epsilon({Spend(1.0, rate=0.1): 3}, 1e-5)
    made = ledger(path=tmp_path / "ledger.jsonl", epsilon=limit)
    for round_ in range(3):
        assert made.refusal(round_) is None
        reserve(made, round_)
    reason = made.refusal(3)
    assert "allows no round 4" in reason
    assert f"above the budget of {limit:g}" in reason
    assert "headway privacy plan" in reason
    before = (tmp_path / "ledger.jsonl").read_bytes()
    with pytest.raises(PrivacyBudgetSpent, match="allows no round 4"):
        reserve(made, 3)
    assert (tmp_path / "ledger.jsonl").read_bytes() == before
    assert made.spent().epsilons == {"client": limit}
    assert made.spent().releases == 3


def test_two_promises_have_two_numbers_and_two_budgets():
    made = ledger(GAUSSIAN, LOCAL, epsilon=8.0, local_epsilon=1.2)
    reserve(made, 0, LOCAL)
    reserve(made, 0, GAUSSIAN)
    found = made.spent().epsilons
    assert found == {"client": epsilon({Spend(1.0, rate=0.1): 1}, 1e-5), "local": epsilon({Spend(4.0): 1}, 1e-5)}
    assert "one client's part in its own messages" in made.refusal(1)
    assert ledger(GAUSSIAN, LOCAL, epsilon=8.0).limits == {"client": 8.0, "local": 8.0}


def test_correlated_noise_is_spent_once_and_ends_with_its_rounds():
    noise = PrivacyEvent("matrix", 3.0, 0.5, details={"rounds": 4})
    made = ledger(noise)
    for round_ in range(4):
        assert made.refusal(round_) is None
        reserve(made, round_)
        assert made.spent().epsilons == {"client": epsilon({Spend(3.0): 1}, 1e-5)}
    assert "made for 4 rounds" in made.refusal(4)


def test_without_a_budget_all_is_written_and_nothing_refused():
    made = ledger()
    for round_ in range(4):
        assert made.refusal(round_) is None
        reserve(made, round_)
    assert made.spent().releases == 4


def test_it_survives_a_restart(tmp_path):
    made = ledger(path=tmp_path / "ledger.jsonl", epsilon=9.0)
    reserve(made, 0)
    reserve(made, 1)
    again = ledger(path=tmp_path / "ledger.jsonl", epsilon=9.0)
    assert again.spent() == made.spent()
    assert len(again.file.entries) == 3  # nothing changed, so nothing is written
    reserve(again, 1)  # the round was cut, and is carried out anew
    assert again.spent().epsilons == {"client": epsilon({Spend(1.0, rate=0.1): 3}, 1e-5)}
    assert again.spent(until=1).epsilons == {"client": epsilon({Spend(1.0, rate=0.1): 1}, 1e-5)}


def test_another_budget_is_written_down(tmp_path):
    ledger(path=tmp_path / "ledger.jsonl", epsilon=3.0)
    more = ledger(path=tmp_path / "ledger.jsonl", epsilon=5.0)
    assert [entry["kind"] for entry in more.file.entries] == ["start", "resume"]
    assert more.file.entries[1]["budget"]["epsilon"] == 5.0


def test_entries_give_the_book_again(tmp_path):
    made = ledger(GAUSSIAN, LOCAL, path=tmp_path / "ledger.jsonl")
    reserve(made, 0, LOCAL)
    reserve(made, 0, GAUSSIAN)
    book = book_of(LedgerFile(tmp_path / "ledger.jsonl").entries)
    assert book.counts() == {"client": {Spend(1.0, rate=0.1): 1}, "local": {Spend(4.0): 1}}


def test_the_summary_names_each_promise():
    spent = PrivacySpent({"client": 1.2341, "local": 0.5}, {"client": 8.0, "local": None}, 1e-5, 3)
    assert spent.summary == "epsilon 1.24 of 8, local epsilon 0.5"
    assert epsilon_text(0.00012345) == "0.000124"


def test_the_budget_of_an_earlier_version_is_read():
    """Whose ledger had a budget of the server's own."""
    budget = {"epsilon": 3.0, "example_epsilon": None, "server_epsilon": 9.0, "delta": 1e-5}
    assert PrivacyOptions.of_budget(budget) == PrivacyOptions(epsilon=3.0, delta=1e-5)
