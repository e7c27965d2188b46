"""A client against a hostile server: what it refuses, and what it no longer has."""

from dataclasses import replace

import pytest
import torch
from secure_parties import Parties, flipped, with_tensor

from headway.core.errors import ExchangeRefused, UpdateRejected
from headway.protocol.messages import Exchange, Train
from headway.stages import SecureSum
from headway.stages.secure_aggregation.masking_client import Phase

VICTIM = "c002"


def phase_of(request) -> str:
    return "train" if isinstance(request, Train) else request.name


def hostile(phase, change, **options) -> Parties:
    """A round in which the server changes what the victim is sent in one phase."""
    parties = Parties(count=6, **options)
    parties.change = lambda name, request: (
        change(parties, request) if name == VICTIM and phase_of(request) == phase else request
    )
    parties.run()
    return parties


def tensor_of(request, name):
    return request.message.stages["SecureSum"][name]


def with_private(request, name, tensor):
    return replace(request, private={**request.private, name: tensor})


CHANGES = {
    "a cohort without the client": (
        "advertise",
        lambda p, r: with_tensor(r, "names", torch.frombuffer(bytearray(b'["a","b","c","d","e"]'), dtype=torch.uint8)),
        "is not in the cohort",
    ),
    "a cohort that is too small": (
        "advertise",
        lambda p, r: with_tensor(r, "names", torch.frombuffer(bytearray(b'["c002","d"]'), dtype=torch.uint8)),
        "over at least 5",
    ),
    "a cohort with a name twice": (
        "advertise",
        lambda p, r: with_tensor(r, "names", torch.frombuffer(bytearray(b'["c002","c002"]'), dtype=torch.uint8)),
        "not distinct",
    ),
    "another cohort than the others'": (
        "advertise",
        lambda p, r: with_tensor(
            r, "names", torch.frombuffer(bytearray(b'["c000","c001","c002","c3","c4"]'), dtype=torch.uint8)
        ),
        "",
    ),
    "swapped keys": (
        "share",
        lambda p, r: with_private(r, "keys", r.private["keys"][[1, 0, 2, 3, 4]]),
        "are not signed by it",
    ),
    "changed keys": (
        "share",
        lambda p, r: with_private(
            r, "keys", r.private["keys"].index_add(0, torch.tensor([0]), torch.ones(1, 128, dtype=torch.uint8))
        ),
        "are not signed by it",
    ),
    "keys of fewer neighbours": (
        "share",
        lambda p, r: with_private(r, "keys", r.private["keys"][:4]),
        "bytes of shape",
    ),
    "no keys": ("share", lambda p, r: replace(r, private={}), "has not the form of its phase"),
    "a list of senders that is too short": (
        "share",
        lambda p, r: with_tensor(r, "present", torch.tensor([0b000111], dtype=torch.uint8)),
        "3 clients sent keys",
    ),
    "a list of senders without the client": (
        "share",
        lambda p, r: with_tensor(r, "present", flipped(tensor_of(r, "present"), 2)),
        "with 'c002' among them",
    ),
    "too few that shared": (
        "train",
        lambda p, r: with_tensor(r, "sharing", torch.tensor([0b000111], dtype=torch.uint8)),
        "3 clients shared secrets",
    ),
    "the phase of another": ("share", lambda p, r: replace(r, name="unmask"), "answers each phase once"),
    "an unknown phase": ("share", lambda p, r: replace(r, name="decrypt"), "has no phase 'decrypt'"),
    "another round": ("share", lambda p, r: replace(r, round=1), "answers each phase once"),
    "another attempt": ("confirm", lambda p, r: replace(r, attempt=1), "answers each phase once"),
    "shares of the wrong senders": (
        "confirm",
        lambda p, r: with_private(r, "shares", r.private["shares"][[1, 0, 2, 3, 4]]),
        "sealed for another client",
    ),
    "a changed share": (
        "confirm",
        lambda p, r: with_private(r, "shares", r.private["shares"] + 1),
        "sealed for another client",
    ),
    "survivors without the client": (
        "confirm",
        lambda p, r: with_tensor(r, "survivors", flipped(tensor_of(r, "survivors"), 2)),
        "with 'c002' among them",
    ),
    "too few survivors": (
        "confirm",
        lambda p, r: with_tensor(r, "survivors", torch.tensor([0b000111], dtype=torch.uint8)),
        "3 clients sent masked vectors",
    ),
    "another list of survivors than was signed": (
        "confirm",
        lambda p, r: with_tensor(r, "survivors", flipped(tensor_of(r, "survivors"), 0)),
        "has not signed the same sum|are not those that were signed",
    ),
    "a survivor that shared nothing": (
        "confirm",
        lambda p, r: with_tensor(r, "survivors", flipped(tensor_of(r, "survivors"), 5)),
        "names clients that shared no secrets",
        {"share": {"c005"}},
    ),
    "a sharer that sent no keys": (
        "train",
        lambda p, r: with_tensor(r, "sharing", flipped(tensor_of(r, "sharing"), 5)),
        "names some that sent no keys",
        {"advertise": {"c005"}},
    ),
    "overlapping lists": (
        "unmask",
        lambda p, r: with_tensor(r, "lost", flipped(tensor_of(r, "lost"), 0)),
        "overlap: both secrets of one were asked for",
    ),
    "lists that do not cover the neighbours": (
        "unmask",
        lambda p, r: with_tensor(r, "survived", flipped(tensor_of(r, "survived"), 0)),
        "not those that were signed",
    ),
    "too few signatures": (
        "unmask",
        lambda p, r: with_tensor(
            with_tensor(r, "signers", torch.tensor([0b000011], dtype=torch.uint8)),
            "signatures",
            tensor_of(r, "signatures")[:2],
        ),
        "2 clients have signed",
    ),
    "signatures of one client several times": (
        "unmask",
        lambda p, r: with_tensor(r, "signatures", tensor_of(r, "signatures")[:1].repeat(5, 1)),
        "has not signed the same sum",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_hostile_request_is_refused_and_nothing_is_revealed(name):
    phase, change, reason, *lost = CHANGES[name]
    parties = hostile(phase, change, lost=dict(*lost))
    if not reason:  # left out by the server, since its keys are for another cohort
        assert VICTIM not in parties.sent
        return
    assert any(part in parties.refusals[VICTIM] for part in reason.split("|")), parties.refusals
    assert VICTIM not in parties.replies.get("unmask", {})


def test_another_model_for_one_client_is_detected_by_the_others():
    """It cannot be told apart from the right sum by looking: the masks do not cancel, and nobody gives a share."""
    parties = hostile("train", lambda p, r: replace(r, message=replace(r.message, params=r.message.params + 1e-6)))
    assert all("was sent another model" in refusal for refusal in parties.refusals.values())
    assert parties.refusals
    assert parties.replies["unmask"].keys() <= {"c000", "c001"} - {VICTIM}


def test_another_model_gives_garbage_and_the_count_shows_it():
    """Were clients to give their shares all the same, the sum would not be that of the updates."""
    parties = hostile("train", lambda p, r: replace(r, message=replace(r.message, params=r.message.params + 1e-6)))
    total = sum(parties.sent[name].vectors["delta"] for name in parties.names) % 2**11
    assert not torch.equal(total, parties.plain(parties.names) % 2**11)


def after(phase: Phase):
    """A cohort that is stopped after a phase."""
    lost = {"share": Phase.ADVERTISED, "train": Phase.SHARED, "confirm": Phase.MASKED, "unmask": Phase.CONFIRMED}
    parties = Parties(count=6)
    for name, before in lost.items():
        if before == phase:
            parties.lost = {name: set(parties.names)}
    parties.run()
    return parties


def test_each_phase_is_answered_once():
    parties = Parties(count=6)
    parties.run()
    for ask in parties.asked:
        request = ask.request_for(VICTIM)
        again = parties.train if isinstance(request, Train) else parties.exchange
        with pytest.raises((ExchangeRefused, UpdateRejected), match=r"once"):
            again(VICTIM, request)


@pytest.mark.parametrize("phase", [Phase.ADVERTISED, Phase.SHARED, Phase.MASKED, Phase.CONFIRMED])
def test_keys_are_made_once_for_a_round_and_attempt_also_after_a_restart(phase):
    """`secret` is all that a restarted client has."""
    parties = after(phase)
    first = parties.asked[0].request_for(VICTIM)
    assert parties.secrets[VICTIM]["tag"].tolist() == [0, 0, int(phase)]
    with pytest.raises(ExchangeRefused, match="are made once"):
        parties.exchange(VICTIM, first)
    with pytest.raises(ExchangeRefused, match="are made once"):
        parties.exchange(VICTIM, replace(first, attempt=-1))


def test_a_second_update_is_not_masked_with_the_same_keys():
    parties = after(Phase.MASKED)
    train = next(ask for ask in parties.asked if isinstance(ask.request, Train))
    parties.codes[VICTIM] = parties.codes[VICTIM] + 1
    sent = parties.sent[VICTIM]
    with pytest.raises(UpdateRejected, match="answers each phase once"):
        parties.train(VICTIM, train.request_for(VICTIM))
    assert parties.sent[VICTIM] is sent
    assert not parties.secrets[VICTIM].keys() & {"mask", "own", "shares"}


def test_what_is_over_is_not_kept():
    names = {
        Phase.ADVERTISED: {"mask", "channel", "own", "shares", "names", "context", "tag"},
        Phase.SHARED: {"mask", "own", "own_share", "names", "context", "present", "peers", "tag"},
        Phase.MASKED: {"own_share", "names", "context", "present", "peers", "sharing", "binding", "tag"},
        Phase.CONFIRMED: {"names", "sharing", "binding", "survivors", "shares", "tag"},
    }
    for phase, held in names.items():
        assert after(phase).secrets[VICTIM].keys() == held
    parties = Parties(count=6)
    parties.run()
    assert parties.secrets[VICTIM].keys() == {"tag"}


@pytest.mark.parametrize(
    ("phase", "allowed"), [(Phase.ADVERTISED, True), (Phase.MASKED, True), (Phase.CONFIRMED, False)]
)
def test_a_new_attempt_has_fresh_keys_unless_the_sum_may_be_known(phase, allowed):
    parties = after(phase)
    old = parties.replies["advertise"][VICTIM]["keys"]
    parties.attempt, parties.lost, parties.sent = 1, {}, {}
    answer = parties.run()
    if allowed:
        assert not torch.equal(parties.replies["advertise"][VICTIM]["keys"], old)
        assert torch.equal(answer.total.integers["delta"], parties.plain(parties.names))
    else:
        assert "two sums of one round" in parties.refusals[VICTIM]
        assert answer.total.count == 0


def test_a_later_round_begins_anew():
    parties = Parties(count=6)
    parties.run()
    parties.round = 1
    assert torch.equal(parties.run().total.integers["delta"], parties.plain(parties.names))


def test_another_chain_at_one_client_is_left_out():
    """Its keys are for another context, and the server that built the other chain sees it before anybody masks."""
    parties = Parties(count=8)
    facts = parties.facts
    parties.facts = lambda name, request, **changes: facts(
        name, request, **({"chain": "other"} if name == VICTIM else {}), **changes
    )
    answer = parties.run()
    assert answer.total.count == 7
    assert any("left out" in note and VICTIM in note for note in answer.notes)


@pytest.mark.parametrize("name", ["a", "ab"])
def test_secrets_are_not_shown(name):
    parties = after(Phase.SHARED)
    shown = repr(parties.facts(VICTIM, Exchange(parties.asked[0].message, name=name)))
    secret = parties.facts(VICTIM, Exchange(parties.asked[0].message)).private.secret
    assert secret.hex() not in shown
    assert repr(secret) not in shown


def test_a_share_is_given_of_one_secret_of_each_neighbour_and_never_of_both():
    """Of a survivor that of its own mask, of a lost client that of its private key: together they give just these."""
    parties = Parties(count=7, lost={"train": {"c005"}})
    answer = parties.run()
    assert answer.total.count == 6
    held = {name: reply["shares"] for name, reply in parties.replies["unmask"].items()}
    assert {tuple(shares.shape) for shares in held.values()} == {(7, 66)}
    assert SecureSum().rules.needed(7) == 5
