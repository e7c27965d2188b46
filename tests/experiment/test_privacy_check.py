"""The check of a ledger: what is whole agrees, and each way to make it look better is found with its line."""

import json
import shutil
import sqlite3

import pytest
from toys import blobs, linear_task

import headway as hw
from headway.core.errors import RunFolderError
from headway.experiment.privacy_check import check_ledger
from headway.numerics.canonical import digest_of
from headway.privacy.ledger_file import LEDGER
from headway.privacy.options import PrivacyOptions


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    chain = hw.chain(hw.Clip(norm=1.0), hw.Mean(over="expected"), hw.GaussianNoise(1.5))
    algorithm = hw.Algorithm(chain, hw.LocalSGD(lr=0.1, batch_size=4), hw.Poisson(rate=0.5))
    privacy = PrivacyOptions(epsilon=20.0, delta=1e-5)
    run = hw.Run(algorithm, blobs((7, 12, 5, 9)), linear_task(), rounds=4, folder=folder, privacy=privacy)
    list(run)
    run.close()
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def rewrite(folder, change):
    """Changes the entries of a ledger, and makes all its digests anew."""
    entries = [json.loads(line) for line in (folder / LEDGER).read_text().splitlines()]
    entries = change(entries) or entries
    previous = ""
    for number, entry in enumerate(entries):
        entry |= {"number": number, "previous": previous}
        del entry["digest"]
        entry["digest"] = previous = digest_of(entry)
    (folder / LEDGER).write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def lines_of(result):
    return [line for line, _ in result.differences]


def test_a_whole_ledger_agrees(folder):
    result = check_ledger(folder)
    assert result.differences == []
    assert (result.lines, result.releases) == (5, 4)
    assert result.recomputed["client"] == pytest.approx(result.recorded["client"], rel=1e-4)
    assert result.notes == []


def test_a_broken_chain_is_found_with_its_first_line(folder):
    lines = (folder / LEDGER).read_text().splitlines()
    for place in (2, 3):
        entry = json.loads(lines[place])
        entry["events"][0]["noise_multiplier"] = 3.0
        lines[place] = json.dumps(entry)
    (folder / LEDGER).write_text("\n".join(lines) + "\n")
    result = check_ledger(folder)
    assert lines_of(result) == [3]
    assert "does not agree with its digest" in result.differences[0][1]


def test_a_smaller_epsilon_is_found_by_computing_it_again(folder):
    def change(entries):
        for entry in entries[2:]:
            entry["epsilon"]["client"] *= 0.9

    rewrite(folder, change)
    result = check_ledger(folder)
    assert lines_of(result)[0] == 3
    assert "follows from the releases so far" in result.differences[0][1]


def test_more_noise_than_the_chain_has_is_found(folder):
    def change(entries):
        for entry in entries:
            for event in [*entry.get("events", []), *entry.get("terms", {}).get("events", [])]:
                event["noise_multiplier"] = 15.0

    rewrite(folder, change)
    result = check_ledger(folder)
    assert any("are not those of the run's chain" in message for _, message in result.differences)


def test_better_sampling_than_there_was_is_found(folder):
    def change(entries):
        for entry in entries:
            entry.get("sampling", entry.get("terms", {}).get("sampling"))["rate"] = 0.01

    rewrite(folder, change)
    assert any("not that of the run's sampler" in message for _, message in check_ledger(folder).differences)


@pytest.mark.parametrize("left_out", [2, 4])
def test_a_release_that_is_left_out_is_found(folder, left_out):
    def change(entries):
        del entries[left_out]

    rewrite(folder, change)
    messages = [message for _, message in check_ledger(folder).differences]
    assert any(f"round {left_out} stands in the journal" in message for message in messages)
    assert any("checkpoint" in message for message in messages)


def test_what_passes_the_budget_is_found(folder):
    def change(entries):
        entries[0]["budget"]["epsilon"] = 3.0

    rewrite(folder, change)
    assert any("above the budget of 3" in message for _, message in check_ledger(folder).differences)


def test_a_journal_that_says_less_is_found(folder):
    with sqlite3.connect(folder / "journal.sqlite") as connection:
        connection.execute("UPDATE metrics SET value = value / 2 WHERE scope = 'privacy' AND name = 'client'")
    connection.close()
    assert any("the journal has client epsilon" in message for _, message in check_ledger(folder).differences)


def test_a_round_that_came_to_nothing_is_mentioned(folder):
    with sqlite3.connect(folder / "journal.sqlite") as connection:
        for table in ("rounds", "metrics"):
            connection.execute(f"DELETE FROM {table} WHERE round = 4")
    connection.close()
    result = check_ledger(folder)
    assert result.differences == []
    assert any("round 4 was reserved and is not in the journal" in note for note in result.notes)


def test_a_folder_without_a_ledger(folder):
    (folder / LEDGER).unlink()
    with pytest.raises(RunFolderError, match="is missing"):
        check_ledger(folder)
