"""The check of a run's privacy ledger: against its own digests, the algorithm, the journal and checkpoints, and with an
epsilon that is computed by other means."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headway.core.errors import HeadwayError, RunFolderError
from headway.core.facts import PrivacyEvent
from headway.experiment.identity import algorithm_of
from headway.observe.journal import open_read_only
from headway.observe.run_folder import JOURNAL, LEDGER, read_identity, read_notes, read_tensors
from headway.privacy.account_book import AccountBook
from headway.privacy.ledger import add_entry, book_of, epsilon_text, sampling_of
from headway.privacy.ledger_file import LedgerError, LedgerFile, read_entries
from headway.privacy.options import PrivacyOptions
from headway.privacy.recomputation import TOLERANCE, recomputed_epsilon
from headway.privacy.spends import Account, Sampling
from headway.privacy.terms import event_of

AT_MOST = 100  # lines whose epsilon is computed again, evenly spread, and the last
COMPARED = ("mechanism", "noise_multiplier", "covers", "unit", "relation", "at")


@dataclass
class LedgerCheck:
    """The result of a check.

    lines: of the ledger.  releases: the reservations among them.  recorded, recomputed: the last epsilon of each
    account, as the ledger holds it and by other means, where there are some.
    differences: the line, 0 for none, and what is wrong there, the first line first.  notes: what a reader should know.
    """

    lines: int = 0
    releases: int = 0
    delta: float = 0.0
    recorded: dict[Account, float] = field(default_factory=dict)
    recomputed: dict[Account, float] = field(default_factory=dict)
    differences: list[tuple[int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_ledger(folder: Path) -> LedgerCheck:
    """Checks the ledger of the run in a folder.

    Raises:
        RunFolderError: if it is no run folder, or has no ledger.
    """
    identity, result = read_identity(folder), LedgerCheck()
    if not (folder / LEDGER).is_file():
        read_entries(folder / LEDGER)
    try:
        file = LedgerFile(folder / LEDGER)
    except RunFolderError as error:
        result.differences.append((error.line if isinstance(error, LedgerError) else 0, str(error)))
        return result
    result.notes += file.notices
    result.lines = len(file.entries)
    if not file.entries:
        result.differences.append((0, "the ledger is empty"))
        return result
    checks = (
        _check_lines(file.entries, result),
        _check_algorithm(folder, identity, file.entries[0], result),
        _check_journal(folder, identity, file.entries, result),
        _check_checkpoint(folder, file),
    )
    for check in checks:
        result.differences += check
    result.differences.sort(key=lambda each: each[0])
    return result


def _check_lines(entries: list[dict[str, Any]], result: LedgerCheck) -> Iterator[tuple[int, str]]:
    """Each reservation against the terms, the budget, and an epsilon that is computed again."""
    book, terms, budget, reserved = AccountBook(), dict[str, Any](), dict[str, Any](), 0
    places = [number for number, entry in enumerate(entries) if entry["kind"] == "reserve"]
    stride = max(1, math.ceil(len(places) / AT_MOST))
    chosen = {*places[stride - 1 :: stride], *places[-1:]}
    for number, entry in enumerate(entries):
        if entry["kind"] in ("start", "resume"):
            terms, budget = entry["terms"], entry["budget"]
            result.delta = float(budget["delta"])
            continue
        reserved += 1
        line = number + 1
        add_entry(book, entry)
        if any(each not in terms["events"] for each in entry["events"]):
            yield line, "its events are not those of the run's terms"
        if entry["sampling"] != terms["sampling"]:
            yield line, "its sampling is not that of the run's terms"
        recorded: dict[Account, float] = {account: float(found) for account, found in entry["epsilon"].items()}
        result.recorded = recorded
        if number in chosen:
            yield from _check_epsilon(line, book, result, recorded)
        yield from _check_budget(line, budget, recorded)
    result.releases = reserved


def _check_epsilon(
    line: int, book: AccountBook, result: LedgerCheck, recorded: Mapping[Account, float]
) -> Iterator[tuple[int, str]]:
    """A recorded epsilon against that of the same spends by other means."""
    for account, found in _recomputed(book, result.delta):
        there = recorded.get(account, 0.0)
        if found is None:
            note = "truncated samples have no second way of accounting here: their epsilon is taken as it stands"
            result.notes += [] if note in result.notes else [note]
            continue
        result.recomputed[account] = found
        if not (found == there or abs(found - there) <= TOLERANCE * max(1.0, found)):
            yield (
                line,
                f"{account} epsilon {there:.6g} is recorded, and {found:.6g} follows from the releases so far",
            )


def _recomputed(book: AccountBook, delta: float) -> Iterator[tuple[Account, float | None]]:
    """The epsilon of each account of a book by other means; `None` where there are none."""
    for account, counts in book.counts().items():
        left = book.delta_left(account, delta)
        yield account, recomputed_epsilon(counts, left) if left > 0 else math.inf


def _check_budget(line: int, budget: Mapping[str, Any], recorded: Mapping[Account, float]) -> Iterator[tuple[int, str]]:
    options = PrivacyOptions.of_budget(budget)
    for account, found in recorded.items():
        limit = options.limit(account)
        if limit is not None and found > limit:
            yield line, f"{account} epsilon {epsilon_text(found)} is above the budget of {limit:g}"


def _check_algorithm(
    folder: Path, identity: Mapping[str, Any], start: Mapping[str, Any], result: LedgerCheck
) -> Iterator[tuple[int, str]]:
    """The terms of the ledger against the chain, trainer and sampler of the run."""
    try:
        algorithm = algorithm_of(identity["algorithm"])
        population = start["terms"]["sampling"]["population"]
        flows = algorithm.flows(None, population=population)
        if (size := _model_size(folder)) is not None:
            flows = algorithm.sized(flows, size)
    except (HeadwayError, KeyError, TypeError) as error:
        result.notes.append(f"the events were not compared with the chain, which cannot be built here: {error}")
        return
    recorded = [event_of(each) for each in start["terms"]["events"]]
    if [_facts(event) for event in recorded] != [_facts(event) for event in flows[-1].events]:
        yield 1, "the releases of the ledger's terms are not those of the run's chain and trainer"
    made, held = Sampling.of_flow(flows[-1]), sampling_of(start["terms"]["sampling"])
    if (made.rate, made.most, made.least) != (held.rate, held.most, held.least):
        yield 1, "the sampling of the ledger's terms is not that of the run's sampler"


def _check_journal(
    folder: Path, identity: Mapping[str, Any], entries: list[dict[str, Any]], result: LedgerCheck
) -> Iterator[tuple[int, str]]:
    """Each round of the journal needs a reservation, unless a secure sum ended it without a release; and what the
    journal says was spent is what the ledger says."""
    at_server = any(each["at"] == "server" for each in entries[0]["terms"]["events"])
    reserved = {int(entry["round"]): number + 1 for number, entry in enumerate(entries) if entry["kind"] == "reserve"}
    rounds, spent = _journal(folder / JOURNAL)
    summed = any(stage.get("stage") == "SecureSum" for stage in identity["algorithm"].get("chain", ()))
    missing = [
        round_
        for round_, (cohort, counted) in rounds.items()
        if round_ not in reserved and (counted or not summed) and (at_server or cohort)
    ]
    if missing:
        yield 0, f"round {missing[0]} stands in the journal, and the ledger has no release of it"
    for round_ in sorted(reserved.keys() - rounds.keys()):
        result.notes.append(
            f"round {round_} was reserved and is not in the journal: it came to nothing, and stays spent"
        )
    if rounds and (last := max(rounds)) in reserved:
        book = book_of([entry for entry in entries if int(entry.get("round", 0)) <= last])
        for account, found in _recomputed(book, result.delta):
            there = spent.get((last, account))
            if found is not None and there is not None and abs(found - there) > TOLERANCE * max(1.0, found):
                yield 0, f"the journal has {account} epsilon {there:.6g} after round {last}, and {found:.6g} follows"


def _check_checkpoint(folder: Path, file: LedgerFile) -> Iterator[tuple[int, str]]:
    """The newest checkpoint holds how many lines there were, and the last digest."""
    paths = sorted((folder / "checkpoints").glob("round-*.safetensors"))
    with contextlib.suppress(RunFolderError):
        held = read_notes(paths[-1]).get("ledger") if paths else None
        if held is not None:
            try:
                file.check_prefix(int(held["entries"]), str(held["digest"]))
            except RunFolderError as error:
                yield min(int(held["entries"]), len(file.entries) + 1), str(error)


def _journal(path: Path) -> tuple[dict[int, tuple[int, int]], dict[tuple[int, str], float]]:
    """The size of the cohort of each round and how many were counted, and the epsilon of each round and account."""
    try:
        with contextlib.closing(open_read_only(path)) as connection:
            rounds = connection.execute("SELECT round, cohort, counted FROM rounds ORDER BY round").fetchall()
            spent = connection.execute(
                "SELECT round, name, value FROM metrics WHERE scope = 'privacy' AND value IS NOT NULL"
            ).fetchall()
    except sqlite3.Error as error:
        raise RunFolderError(f"the journal {path} cannot be read: {error}.") from error
    sizes = {int(r): (int(cohort or 0), int(counted or 0)) for r, cohort, counted in rounds}
    return sizes, {(int(r), str(n)): float(v) for r, n, v in spent}


def _model_size(folder: Path) -> int | None:
    """How many parameters are shared, where a checkpoint is there."""
    for path in sorted((folder / "checkpoints").glob("round-*.safetensors"), reverse=True):
        with contextlib.suppress(RunFolderError):
            return int(read_tensors(path)[0]["params"].numel())
    return None


def _facts(event: PrivacyEvent) -> tuple[Any, ...]:
    """What must be the same of an event; its sensitivity follows from the cohort and the model."""
    return tuple(getattr(event, name) for name in COMPARED)
