"""The manifests of a server's run: what they hold, and that a resumed run goes on with the same chain."""

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from raw_client import RawClient
from recorded_run import TRAINER, recorded_run

import headway as hw
from headway.core.errors import RunFolderError
from headway.experiment import replay
from headway.federation.http_api import Assignment
from headway.federation.spool.manifest import ModelDigests
from headway.federation.spool.manifest_folder import ManifestFolder
from headway.federation.spool.run_check import RunCheck
from headway.federation.spool.spool import Spool
from headway.numerics.canonical import digest_of
from headway.observe.journal import Journal


def test_a_manifest_holds_every_update_and_the_model(tmp_path: Path) -> None:
    run = recorded_run(tmp_path / "run", rounds=2)
    folder = ManifestFolder(tmp_path / "run")
    documents = [folder.document(round_) for round_ in folder.rounds()]
    assert [document.manifest.round for document in documents] == [1, 2]
    assert documents[0].manifest.previous == digest_of(folder.start())
    assert (
        documents[1].manifest.previous == documents[0].manifest.digest == digest_of(documents[0].manifest.to_values())
    )
    assert documents[1].manifest.before == documents[0].manifest.after
    assert documents[1].manifest.after == ModelDigests.of(run.state)
    for document in documents:
        assert document.asked == tuple(run.data.clients)
        assert [entry.client for entry in document.updates] == list(run.data.clients)
        assert {entry.verdict for entry in document.updates} == {"counted"}
        assert [entry.weight for entry in document.updates] == [float(len(each)) for each in run.data.train.values()]
        assert [entry.examples for entry in document.updates] == [len(each) for each in run.data.train.values()]
        assert {entry.data for entry in document.updates} == {"of client-data"}
        assert all(Spool(tmp_path / "run" / "spool").is_whole(entry.digest) for entry in document.updates)
    assert folder.head() == {
        "job": "job", "round": 2, "digest": documents[1].manifest.digest, "server": "", "signature": "",
    }  # fmt: skip


def test_a_resumed_run_goes_on_with_the_chain(tmp_path: Path) -> None:
    recorded_run(tmp_path / "run", rounds=3, stop_after=1)
    first = ManifestFolder(tmp_path / "run").document(1)
    recorded_run(tmp_path / "run", rounds=3)
    folder = ManifestFolder(tmp_path / "run")
    assert folder.document(1) == first
    assert folder.rounds() == [1, 2, 3]
    whole = recorded_run(tmp_path / "whole", rounds=3)
    assert folder.document(3).manifest.after == ModelDigests.of(whole.state)
    result = RunCheck(tmp_path / "run").check()
    assert (result.replayed, result.differences) == ([1, 2, 3], [])


def test_a_run_does_not_go_on_from_another_model_than_its_chain(tmp_path: Path) -> None:
    recorded_run(tmp_path / "run", rounds=3, stop_after=2)
    path = tmp_path / "run" / "manifests" / "round-000002.json"
    values = json.loads(path.read_bytes())
    values["manifest"]["at"] += 1.0
    path.write_text(json.dumps(values))
    with pytest.raises(RunFolderError, match=r"Restore .* from a copy, or move it away"):
        recorded_run(tmp_path / "run", rounds=3)


def test_a_run_whose_manifests_were_moved_away_begins_a_new_chain(tmp_path: Path) -> None:
    recorded_run(tmp_path / "run", rounds=3, stop_after=1)
    (tmp_path / "run" / "manifests").rename(tmp_path / "manifests")
    run = recorded_run(tmp_path / "run", rounds=3)
    begun = "the run has no manifests of rounds 1 to 1: `headway verify` begins after them."
    assert begun in [row["text"] for row in Journal(tmp_path / "run" / "journal.sqlite").rows("notes")]
    result = RunCheck(tmp_path / "run").check()
    assert (result.rounds, result.replayed, result.differences) == ([2, 3], [2, 3], [])
    assert run.state.round == 3


def test_old_updates_are_forgotten_and_the_disk_does_not_grow(tmp_path: Path) -> None:
    sizes = []

    class Sizes(hw.Observer):
        def on_recorded(self, report):
            sizes.append(sum(path.stat().st_size for path in (tmp_path / "run" / "spool").rglob("*") if path.is_file()))

    recorded_run(tmp_path / "run", rounds=14, keep_rounds=2, others=[Sizes()], grace_s=0.0)
    assert max(sizes[6:]) <= max(sizes[:6]) * 1.3
    result = RunCheck(tmp_path / "run").check()
    assert not result.differences
    assert (result.by_digest[0], result.replayed[-1]) == (1, 14)
    assert len(result.replayed) >= 2
    assert result.by_digest + result.replayed == list(range(1, 15))
    assert len(ManifestFolder(tmp_path / "run").state_rounds()) <= 3


class Crash(Exception):
    """The end of the server's process."""


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def crash(*_: object, **__: object) -> None:
    raise Crash


CRASHES = {
    "in the journal": ("headway.observe.journal.Journal.record", crash, Crash),
    "before the manifest": ("headway.federation.spool.manifest_folder.ManifestFolder.write_round", crash, Crash),
    "between manifest and head": ("headway.federation.spool.manifest_folder.ManifestFolder.write_head", crash, Crash),
    "after the manifest": ("headway.federation.spool.spool.Spool.forget", crash, Crash),
    "before the checkpoint": ("headway.experiment.checkpointer.Checkpointer.save", crash, Crash),
    "full disk": ("headway.federation.spool.manifest_folder.write_atomically", no_space, RunFolderError),
    "full disk at the checkpoint": ("headway.observe.run_folder.write_tensors", no_space, RunFolderError),
}  # fmt: skip


@pytest.mark.parametrize("keep_after_s", [0.0, 20.0], ids=["answers kept", "answers from events"])
@pytest.mark.parametrize("where", CRASHES)
def test_a_server_that_ends_anywhere_goes_on_with_one_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, keep_after_s: float
) -> None:
    monkeypatch.setattr(replay, "KEEP_AFTER_S", keep_after_s)
    place, fail, error = CRASHES[where]

    class AfterTheFirst(hw.Observer):
        def on_round(self, report: hw.RoundReport) -> None:
            if report.round == 2:
                patch.setattr(place, fail)

    with monkeypatch.context() as patch, pytest.raises(error):
        recorded_run(tmp_path / "run", 3, others=[AfterTheFirst()])
    run = recorded_run(tmp_path / "run", 3)
    result = RunCheck(tmp_path / "run").check()
    assert (result.rounds, result.replayed, result.differences) == ([1, 2, 3], [1, 2, 3], [])
    assert run.state.round == 3


def test_an_update_that_is_refused_is_listed_with_its_reason(tmp_path: Path) -> None:
    answers = []

    def poison(raw: RawClient) -> None:
        with raw:
            assert raw.join(9).status == 200
            answers.append(raw.answer(raw.assignment(), 9.0, float("nan")).json["verdict"])

    recorded_run(tmp_path / "run", 1, by_hand={"client-3": poison}, evaluate_every=None)
    assert answers == ["refused"]
    (entry,) = (each for each in ManifestFolder(tmp_path / "run").document(1).updates if each.verdict != "counted")
    assert (entry.client, entry.verdict, entry.weight, len(entry.digest)) == ("client-3", "refused", None, 64)
    assert "not finite" in entry.reason
    result = RunCheck(tmp_path / "run").check()
    assert (result.replayed, result.differences) == ([1], [])


def test_a_client_that_does_not_answer_is_listed_as_lost(tmp_path: Path) -> None:
    """The others answer when it has its request."""
    asked = threading.Event()

    def silent(raw: RawClient) -> None:
        with raw:
            assert raw.join(9).status == 200
            raw.assignment()
            asked.set()

    @contextlib.contextmanager
    def after_it(client: str, assignment: Assignment) -> Iterator[None]:
        assert asked.wait(60)
        yield

    algorithm = replace(hw.recipes.recipe("fedavg", trainer=TRAINER), quorum=hw.Quorum(count=3))
    recorded_run(tmp_path / "run", 1, algorithm, by_hand={"client-3": silent}, gate=after_it, evaluate_every=None)
    document = ManifestFolder(tmp_path / "run").document(1)
    assert [(each.client, each.verdict) for each in document.updates][3] == ("client-3", "lost")
    assert (document.updates[3].digest, document.updates[3].reason) == ("", "the round was over before it answered")
    assert document.asked == ("client-0", "client-1", "client-2", "client-3")
    result = RunCheck(tmp_path / "run").check()
    assert (result.replayed, result.differences) == ([1], [])


def test_updates_of_earlier_models_are_computed_again_with_their_own(tmp_path: Path) -> None:
    """The first of three clients counts in the first round, and in the second round another of them."""
    algorithm = hw.recipes.recipe("fedbuff", trainer=TRAINER, concurrency=3, buffer=1)
    over = threading.Event()

    class SecondRound(hw.Observer):
        def on_recorded(self, report: hw.RoundReport) -> None:
            if report.round == 2:
                over.set()

    @contextlib.contextmanager
    def older_first(client: str, assignment: Assignment) -> Iterator[None]:
        assert assignment.round == 0 or over.wait(60)
        yield

    recorded_run(tmp_path / "run", 6, algorithm, others=[SecondRound()], gate=older_first, evaluate_every=None)
    folder = ManifestFolder(tmp_path / "run")
    entries = [(round_, each) for round_ in folder.rounds() for each in folder.document(round_).updates]
    assert any(each.asked < round_ - 1 for round_, each in entries if each.verdict == "counted")
    result = RunCheck(tmp_path / "run").check()
    assert (result.replayed, result.differences) == ([1, 2, 3, 4, 5, 6], [])
