"""`headway verify RUN`: each kind of damage is found, in the round where it is."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from recorded_run import TRAINER, recorded_run

import headway as hw
from headway.core.errors import RunFolderError
from headway.federation.spool.manifest import ModelDigests, RoundDocument
from headway.federation.spool.manifest_folder import ManifestFolder
from headway.federation.spool.run_check import RunCheck
from headway.numerics.canonical import digest_of
from headway.observe.run_folder import BEST, read_tensors, write_tensors

ROUNDS = 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "run"
    recorded_run(folder, ROUNDS)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Iterator[Path]:
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def flip(path: Path, place: int = -1) -> None:
    """Changes one byte of a file, in its middle unless another place is named."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place < 0 else place] ^= 1
    path.write_bytes(data)


def change(path: Path, edit: Callable[[dict], None]) -> None:
    values = json.loads(path.read_bytes())
    edit(values)
    path.write_text(json.dumps(values))


def first(run: Path) -> tuple[int, str]:
    found = RunCheck(run).check().first
    assert found is not None
    return found.round, found.message


def update_of(run: Path, round_: int, client: int = 1) -> Path:
    entry = ManifestFolder(run).document(round_).updates[client]
    return run / "spool" / "blobs" / entry.digest


def test_a_whole_run_agrees_and_nothing_is_changed(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    result = RunCheck(run).check()
    assert (result.rounds, result.replayed, result.by_digest) == ([1, 2, 3, 4], [1, 2, 3, 4], [])
    assert result.differences == []
    assert result.first is None
    assert result.notes == ["the chain is not signed: the server had no identity."]
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize("place", [0, 9, 40, -1])
def test_one_byte_of_one_update(run: Path, place: int) -> None:
    flip(update_of(run, 3), place)
    round_, message = first(run)
    assert round_ == 3
    assert "other bytes in the spool" in message
    assert RunCheck(run).check().replayed == [1, 2, 4], "round 4 is computed from the checkpoint of round 3"


def test_one_byte_of_the_model_that_went_out(run: Path) -> None:
    flip(run / "spool" / "blobs" / ManifestFolder(run).document(2).manifest.message)
    assert first(run)[0] == 2


def test_one_weight_in_a_manifest(run: Path) -> None:
    change(run / "manifests" / "round-000002.json", lambda values: values["updates"][0].update(weight=99.0))
    assert first(run) == (2, "the manifest of round 2 has other entries than it was made with")


def test_one_weight_in_a_manifest_whose_digests_were_made_to_fit(run: Path) -> None:
    """The next manifest shows it, and the replay."""
    change(run / "manifests" / "round-000002.json", reweigh)
    found = [(each.round, each.message) for each in RunCheck(run).check().differences]
    assert found[0] == (2, "events.sqlite has another update, or weight, of client 'client-0'")
    assert found[1][0] == 2
    assert "has the weight 7.0, in the manifest 99.0" in found[1][1]
    assert found[2] == (3, "the manifest before is not the one that its manifest follows on")


def reweigh(values: dict) -> None:
    values["updates"][0]["weight"] = 99.0
    values["manifest"]["updates"] = sorted(digest_of(entry) for entry in values["updates"])


def test_one_weight_in_the_event_log(run: Path) -> None:
    with sqlite3.connect(run / "events.sqlite") as connection:
        connection.execute("UPDATE events SET weight = weight + 1 WHERE kind = 'arrived' AND round = 1 AND number = 4")
    connection.close()
    round_, message = first(run)
    assert round_ == 2
    assert "events.sqlite has another update, or weight" in message


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE clients SET norm = norm * 1.0000001 WHERE round = 3 AND client = (SELECT min(client) FROM clients)",
        "UPDATE metrics SET value = value + 1e-9 WHERE round = 3 AND name = 'accuracy'",
        "UPDATE rounds SET counted = 3 WHERE round = 3",
        "DELETE FROM clients WHERE round = 3 AND client = (SELECT max(client) FROM clients)",
        "INSERT INTO notes VALUES (3, 7, 'all was well')",
    ],
)
def test_one_line_of_the_journal(run: Path, statement: str) -> None:
    with sqlite3.connect(run / "journal.sqlite") as connection:
        assert connection.execute(statement).rowcount >= 1
    connection.close()
    assert first(run) == (3, "the rows of the round in journal.sqlite are not those that it ended with")


def test_the_model_of_a_checkpoint(run: Path) -> None:
    path = run / "checkpoints" / "round-000003.safetensors"
    tensors, notes = read_tensors(path)
    flip_tensor = tensors["params"].clone()
    flip_tensor[0] += 1e-9
    write_tensors(path, {**tensors, "params": flip_tensor}, notes)
    assert first(run) == (3, "the model in round-000003.safetensors is not the one that the round ended with")


def test_one_byte_of_a_checkpoint(run: Path) -> None:
    path = run / "checkpoints" / f"round-{ROUNDS:06d}.safetensors"
    flip(path, path.stat().st_size - 5)
    assert first(run)[0] == ROUNDS


def test_the_best_model(run: Path) -> None:
    tensors, notes = read_tensors(run / BEST)
    write_tensors(run / BEST, {name: tensor + 1 for name, tensor in tensors.items()}, notes)
    round_, message = first(run)
    assert round_ == notes["round"]
    assert BEST in message


def test_the_state_that_a_replay_begins_with(run: Path) -> None:
    path = run / "manifests" / "state-000000.safetensors"
    flip(path, path.stat().st_size - 5)
    assert first(run) == (1, "the kept state of round 0 is not the one that round 1 began with")


def test_a_manifest_that_is_missing_damaged_or_last(run: Path) -> None:
    path = run / "manifests" / "round-000003.json"
    kept = path.read_bytes()
    path.unlink()
    assert first(run) == (3, "the manifests from round 3 to 3 are missing")
    path.write_bytes(kept[: len(kept) // 2])
    assert first(run)[0] == 3
    path.write_bytes(kept)
    (run / "manifests" / f"round-{ROUNDS:06d}.json").unlink()
    assert first(run) == (3, "head.json names another manifest than the newest")


def test_an_update_that_is_counted_twice(run: Path) -> None:
    """A server that counts an update of round 2 again in round 3, and makes all digests fit."""
    folder = ManifestFolder(run)
    again = folder.document(2).updates[0].to_values()

    def add(values: dict) -> None:
        values["updates"][0] = again
        values["manifest"]["updates"] = sorted(digest_of(entry) for entry in values["updates"])

    change(run / "manifests" / "round-000003.json", add)
    messages = [each.message for each in RunCheck(run).check().differences if each.round == 3]
    assert any("was counted in round 2" in message for message in messages)


def test_a_seed_that_was_changed(run: Path) -> None:
    change(run / "run.json", lambda values: values.update(seed=1))
    assert "another seed" in first(run)[1]


def test_another_algorithm_than_the_rounds_were_computed_with(run: Path) -> None:
    def faster(values: dict) -> None:
        values["algorithm"]["chain"].append({"stage": "ServerAdam", "lr": 0.01})

    change(run / "manifests" / "start.json", faster)
    assert first(run) == (1, "the start of the chain is not the one that its manifest follows on")


def test_updates_that_were_forgotten_are_compared_by_digests_alone(run: Path) -> None:
    update_of(run, 2).unlink()
    result = RunCheck(run).check()
    assert (result.differences, result.by_digest) == ([], [2])
    assert result.replayed == [1, 3, 4], "the checkpoint of round 2 is at hand"
    shutil.rmtree(run / "spool")
    result = RunCheck(run).check()
    assert (result.differences, result.by_digest) == ([], [1, 2, 3, 4])


def test_a_missing_journal_and_event_log_are_said(run: Path) -> None:
    (run / "journal.sqlite").unlink()
    (run / "events.sqlite").unlink()
    assert [each.message for each in RunCheck(run).check().differences] == [
        "journal.sqlite is missing",
        "events.sqlite is missing",
    ]


def test_a_journal_round_at_which_the_server_was_stopped(run: Path) -> None:
    """Its manifest was not written yet; it is run again."""
    with sqlite3.connect(run / "journal.sqlite") as connection:
        connection.execute("INSERT INTO rounds (round) VALUES (5)")
        assert not RunCheck(run).check().differences
        connection.execute("INSERT INTO rounds (round) VALUES (6)")
    connection.close()
    assert first(run) == (6, "journal.sqlite has the round, and it has no manifest")


def test_a_run_of_a_simulation_has_no_manifests(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no run folder"):
        RunCheck(tmp_path)
    (tmp_path / "run.json").write_text('{"format": 1, "seed": 0}')
    with pytest.raises(RunFolderError, match="holds no manifests"):
        RunCheck(tmp_path)


def test_stages_that_are_not_installed_here_are_said(run: Path) -> None:
    def foreign(values: dict) -> None:
        values["algorithm"]["chain"][0] = {"stage": "Elsewhere"}

    change(run / "manifests" / "start.json", foreign)
    result = RunCheck(run).check()
    assert any("cannot be built here" in note and "Elsewhere" in note for note in result.notes)
    assert result.replayed == []


CHAINS = {
    "scaffold": lambda: hw.recipes.recipe("scaffold", trainer=TRAINER),
    "fedavg+ecgr": lambda: hw.recipes.recipe("fedavg+ecgr", trainer=TRAINER),
    "fedadam": lambda: hw.recipes.recipe("fedadam", trainer=TRAINER),
}


@pytest.mark.parametrize("name", CHAINS)
def test_other_chains_are_computed_again(tmp_path: Path, name: str) -> None:
    state = recorded_run(tmp_path / "run", 3, CHAINS[name]()).state
    result = RunCheck(tmp_path / "run").check()
    assert (result.differences, result.replayed) == ([], [1, 2, 3])
    document: RoundDocument = ManifestFolder(tmp_path / "run").document(3)
    assert document.manifest.after == ModelDigests.of(state)
