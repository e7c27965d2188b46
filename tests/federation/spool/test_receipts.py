"""Receipts: each of an agent's updates was counted once, or why not; and what a server cannot deny."""

import json
from pathlib import Path

import pytest
from recorded_run import recorded_run

from headway.core.errors import ConfigError
from headway.federation.http_api import Receipt
from headway.federation.identity.authority import Authority
from headway.federation.identity.node_identity import NodeIdentity
from headway.federation.spool import receipts as receipts_module
from headway.federation.spool.manifest_folder import ManifestFolder
from headway.federation.spool.receipts import (
    ReceiptsAnswer,
    ReceiptsCheck,
    ReceiptsVerification,
    extract,
    jobs_of,
    read_receipts,
    signer,
)
from headway.federation.spool.run_check import RunCheck
from headway.numerics.canonical import canonical, digest_of

CLIENT = "client-1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed run of three rounds, and the receipts of all clients, in folders of their names."""
    folder = tmp_path_factory.mktemp("receipts")
    with Authority.create(folder / "ca") as authority:
        authority.issue("server", folder / "server", hosts=("127.0.0.1",))
    with Authority.create(folder / "other") as authority:
        authority.issue("server", folder / "impostor", hosts=("127.0.0.1",))
    kept: list[Receipt] = []
    recorded_run(folder / "run", 3, identity=NodeIdentity.load(folder / "server"), receipts=kept)
    for receipt in kept:
        own = folder / receipt.client / receipt.job
        own.mkdir(parents=True, exist_ok=True)
        (own / f"{receipt.assignment}.json").write_text(receipt.model_dump_json())
    return folder


def authority_of(made: Path) -> Path:
    return made / "server" / "ca.pem"


def check(made: Path, receipts: list[Receipt], answer: ReceiptsAnswer | None = None) -> ReceiptsVerification:
    answer = answer or extract(made / "run", CLIENT, 0)
    assert answer is not None
    return ReceiptsCheck(receipts, authority_of(made)).check([answer])


def changed(answer: ReceiptsAnswer, place: int, **entry: object) -> ReceiptsAnswer:
    """The answer with another entry in a round."""
    extracted = answer.rounds[place]
    updates = tuple({**each, **entry} for each in extracted.updates)
    rounds = [*answer.rounds]
    rounds[place] = extracted.model_copy(update={"updates": updates})
    return answer.model_copy(update={"rounds": tuple(rounds)})


def test_every_update_was_counted_once(made: Path) -> None:
    receipts = read_receipts(made / CLIENT)
    assert len(receipts) == 3
    result = check(made, receipts)
    assert (result.counted, result.not_counted, result.open, result.differences) == ([1, 2, 3], [], [], [])
    assert (result.signed_by, result.notes) == ("server", [])


def test_a_client_is_shown_its_own_entries_alone(made: Path) -> None:
    answer = extract(made / "run", CLIENT, 1)
    assert answer is not None
    assert [json.loads(each.manifest)["round"] for each in answer.rounds] == [2, 3]
    assert {entry["client"] for each in answer.rounds for entry in each.updates} == {CLIENT}
    assert all(name not in answer.model_dump_json() for name in ("client-0", "client-2", "client-3"))
    stranger = extract(made / "run", "nobody", 0)
    assert stranger is not None
    assert all(each.updates == () for each in stranger.rounds)


def test_an_account_in_parts(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts_module, "ROUNDS_AT_A_TIME", 2)
    first, second = extract(made / "run", CLIENT, 0), extract(made / "run", CLIENT, 2)
    assert first is not None
    assert second is not None
    assert (first.more, second.more, len(second.rounds)) == (True, False, 1)
    result = ReceiptsCheck(read_receipts(made / CLIENT)).check([first, second])
    assert (result.counted, result.differences) == ([1, 2, 3], [])


def test_an_update_that_the_server_leaves_out_is_found(made: Path) -> None:
    answer = extract(made / "run", CLIENT, 0)
    assert answer is not None
    hidden = answer.model_copy(
        update={"rounds": tuple(each.model_copy(update={"updates": ()}) for each in answer.rounds)}
    )
    result = check(made, read_receipts(made / CLIENT), hidden)
    assert result.differences[0] == "the update of round 1 was accepted, and no manifest up to round 3 has it"


@pytest.mark.parametrize("entry", [{"verdict": "lost"}, {"weight": 1.0}, {"reason": "it was late"}])
def test_an_entry_that_is_not_in_the_manifest_is_found(made: Path, entry: dict[str, object]) -> None:
    answer = extract(made / "run", CLIENT, 0)
    assert answer is not None
    result = check(made, read_receipts(made / CLIENT), changed(answer, 1, **entry))
    assert "what the server shows of round 2 is not in its manifest" in result.differences


def test_a_chain_that_was_made_anew_is_found_by_its_signature(made: Path) -> None:
    """Manifests whose digests fit, and a head with the signature of the former chain, or of another key."""
    answer = extract(made / "run", CLIENT, 0)
    assert answer is not None
    newest = json.loads(answer.rounds[-1].manifest)
    newest["at"] += 1
    last = answer.rounds[-1].model_copy(update={"manifest": canonical(newest).decode()})
    forged = answer.model_copy(update={"rounds": (*answer.rounds[:-1], last)})
    receipts = read_receipts(made / CLIENT)
    assert "the newest manifest is not the one that the server has signed" in check(made, receipts, forged).differences
    fitting = forged.model_copy(update={"digest": digest_of(newest)})
    assert any("has no valid signature" in each for each in check(made, receipts, fitting).differences)
    impostor = NodeIdentity.load(made / "impostor")
    signed = canonical({"job": fitting.job, "round": fitting.round, "digest": fitting.digest})
    foreign = fitting.model_copy(update={"server": impostor.certificate, "signature": impostor.sign(signed)})
    assert any("another authority" in each for each in check(made, receipts, foreign).differences)


@pytest.mark.parametrize("field", ["digest", "round", "verdict", "at", "client"])
def test_a_receipt_that_was_changed_is_found(made: Path, field: str) -> None:
    receipts = read_receipts(made / CLIENT)
    values = {"digest": "0" * 64, "round": 7, "verdict": "late", "at": receipts[0].at + 1, "client": "client-2"}
    receipts[0] = receipts[0].model_copy(update={field: values[field]})
    assert any("has no valid signature" in each for each in check(made, receipts).differences)


def test_what_became_of_updates_that_do_not_count(made: Path) -> None:
    first, second, third = read_receipts(made / CLIENT)
    sign = signer(NodeIdentity.load(made / "server"))
    late = sign(first.model_copy(update={"digest": "1" * 64, "verdict": "late", "reason": "the round was over"}))
    ahead = sign(first.model_copy(update={"digest": "2" * 64, "round": 3}))
    denied = sign(second.model_copy(update={"verdict": "late", "reason": "no"}))
    result = check(made, [late, denied, third, ahead])
    assert (result.counted, result.not_counted, result.open) == ([3], [(1, "the round was over")], [4])
    assert result.differences == ["the update of round 2 was counted in round 2, and its receipt says 'late'"]


def test_without_an_identity_receipts_are_not_signed(tmp_path: Path) -> None:
    kept: list[Receipt] = []
    recorded_run(tmp_path / "run", 1, receipts=kept)
    answer = extract(tmp_path / "run", CLIENT, 0)
    assert answer is not None
    result = ReceiptsCheck([each for each in kept if each.client == CLIENT]).check([answer])
    assert (result.counted, result.signed_by, result.differences) == ([1], "", [])
    assert result.notes == ["the receipts are not signed: the server had no identity."]


def test_the_head_of_a_run_is_signed(made: Path, tmp_path: Path) -> None:
    result = RunCheck(made / "run", authority_of(made)).check()
    assert (result.signed_by, result.notes, result.differences) == ("server", [], [])
    assert any("--authority" in note for note in RunCheck(made / "run").check().notes)
    (tmp_path / "no.pem").write_text("no certificate")
    for file, why in ((tmp_path / "no.pem", "is no certificate"), (tmp_path / "none.pem", "cannot be read")):
        with pytest.raises(ConfigError, match=why):
            RunCheck(made / "run", file).check()
    foreign = RunCheck(made / "run", made / "impostor" / "ca.pem").check()
    assert [each.round for each in foreign.differences] == [3]


def test_receipts_of_several_jobs_and_folders_without_any(made: Path, tmp_path: Path) -> None:
    receipts = read_receipts(made / CLIENT)
    other = receipts[0].model_copy(update={"job": "other"})
    assert {job: len(each) for job, each in jobs_of([*receipts, other]).items()} == {"job": 3, "other": 1}
    with pytest.raises(ConfigError, match="holds no receipts"):
        read_receipts(tmp_path)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ConfigError, match="is no receipt"):
        read_receipts(tmp_path)


def test_before_the_first_round_there_is_no_account(tmp_path: Path) -> None:
    assert extract(tmp_path, CLIENT, 0) is None
    assert not ManifestFolder(tmp_path).exists
