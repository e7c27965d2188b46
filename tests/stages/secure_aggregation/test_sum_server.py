"""The server against clients that answer wrongly, or no more."""

import pytest
import torch
from secure_parties import PHASES, Parties

from headway.stages.secure_aggregation.mask_stream import mask_stream
from headway.stages.secure_aggregation.secret_sharing import PRIME, _weights
from headway.stages.secure_aggregation.sum_server import Masks
from headway.stages.secure_aggregation.transcript import keys_text, to_bytes, to_tensor

WRONG = "c001"


def changing(phase, change, **options) -> Parties:
    """A round in which one client's reply to a phase is another."""
    parties = Parties(count=10, **options)
    respond = parties.exchange

    def exchange(name, request):
        reply = respond(name, request)
        return change(reply) if name == WRONG and request.name == phase else reply

    parties.exchange = exchange
    return parties


@pytest.mark.parametrize(
    ("phase", "change"),
    [
        ("advertise", lambda reply: {}),
        ("advertise", lambda reply: {**reply, "keys": reply["keys"][:63]}),
        ("advertise", lambda reply: {**reply, "context": reply["context"] + 1}),
        ("advertise", lambda reply: {**reply, "signature": reply["signature"].float()}),
        ("share", lambda reply: {"shares": reply["shares"][1:]}),
        ("share", lambda reply: {}),
        ("confirm", lambda reply: {"signature": torch.zeros(3, dtype=torch.uint8)}),
        ("unmask", lambda reply: {"shares": reply["shares"][:, 1:]}),
    ],
)
def test_a_reply_that_has_not_the_form_of_its_phase_leaves_its_client_out(phase, change):
    parties = changing(phase, change)
    answer = parties.run()
    assert [note for note in answer.notes if WRONG in note and "left out" in note], answer.notes
    counted = parties.names if phase in ("confirm", "unmask") else [name for name in parties.names if name != WRONG]
    assert torch.equal(answer.total.integers["delta"], parties.plain(counted))
    assert answer.total.count == len(counted)


@pytest.mark.parametrize(
    ("lost", "named"),
    [({"train": {"c009"}}, "the shares of the secret of"), ({}, "the shares of the secret of")],
    ids=["with a lost client", "without"],
)
def test_a_wrong_share_ends_the_round(lost, named):
    parties = changing("unmask", lambda reply: {"shares": reply["shares"].clone().fill_(1)}, lost=lost)
    answer = parties.run()
    assert answer.total.count == 0
    assert named in answer.notes[-1]
    assert "another share" in answer.notes[-1]
    assert {report.status for report in answer.reports} == {"dropped"}


@pytest.mark.parametrize("lost", [{"c009"}, set()], ids=["a lost client", "a survivor"])
def test_a_share_that_gives_another_secret_is_detected(lost):
    """Shares are linear: who knows which ones are put together can move the secret by 1 and stay in its range."""
    parties = Parties(count=10, lost={"train": lost})
    moved, weights = (9 if lost else 2), _weights(tuple(range(1, 8)))

    def exchange(name, request):
        reply, _ = parties.stage.answer(request, parties.secrets[name], parties.facts(name, request))
        if name == "c000" and request.name == "unmask":
            row = reply["shares"][moved]  # its own is the first, and it is the first of all
            share = int.from_bytes(to_bytes(row), "big") + pow(weights[0], -1, PRIME)
            reply["shares"][moved] = to_tensor((share % PRIME).to_bytes(66, "big"))
        return reply

    respond = parties.exchange
    parties.exchange = lambda name, request: (exchange if request.name == "unmask" else respond)(name, request)
    answer = parties.run()
    assert answer.total.count == 0
    assert f"the shares of the secret of 'c00{moved}' do not give it" in answer.notes[0]


def test_a_wrong_masked_vector_is_an_update_as_any_other_but_a_count_of_two_is_seen():
    """Nobody can look behind a mask; that a client counts once can be checked."""
    parties = Parties(count=6)
    train = parties.train

    def twice(name, request):
        sent = train(name, request)
        if name == WRONG:
            sent.vectors["numbers"][0] += 1
        return sent

    parties.train = twice
    answer = parties.run()
    assert answer.total.count == 0
    assert "the masks do not cancel" in answer.notes[0]


@pytest.mark.parametrize("phase", PHASES)
def test_a_round_ends_in_the_phase_in_which_too_few_are_left(phase):
    parties = Parties(count=10, lost={phase: {f"c{place:03d}" for place in range(4)}})
    answer = parties.run()
    assert answer.total.count == 0
    assert not answer.total.integers
    assert "6 of 10 clients" in answer.notes[0]
    last = parties.asked[-1].request
    assert getattr(last, "name", "train") == phase
    if phase != "unmask":
        assert "unmask" not in parties.replies


def test_at_the_threshold_the_sum_is_there():
    for phase in PHASES:
        lost = {f"c{place:03d}" for place in range(3)}
        parties = Parties(count=10, lost={phase: lost})
        answer = parties.run()
        gone = lost if phase in ("advertise", "share", "train") else set()
        assert torch.equal(answer.total.integers["delta"], parties.plain([n for n in parties.names if n not in gone]))


def test_the_server_learns_no_second_secret_of_any_client():
    """Of a survivor too few shares of its private key come, of a lost client too few of its own mask: none at all."""
    parties = Parties(count=10, lost={"train": {"c002"}, "confirm": {"c003"}})
    parties.run()
    sealed = {name: shares["shares"] for name, shares in parties.replies["share"].items()}
    assert all(shares.shape == (9, 148) for shares in sealed.values())
    revealed = {name: reply["shares"] for name, reply in parties.replies["unmask"].items()}
    assert all(shares.shape == (10, 66) for shares in revealed.values())
    assert len(revealed) == 8


def test_masks_are_taken_off():
    masks = Masks((bytes(32),), (b"b" * 32,), "aes")
    total = mask_stream(bytes(32), 5, "uint32") - mask_stream(b"b" * 32, 5, "uint32")
    masks.taken_off(total)
    assert not total.any()
    assert "b" * 10 not in repr(masks)


@pytest.mark.parametrize("lost", [{"train": {"c009"}}, {}], ids=["with a lost client", "without"])
def test_a_key_with_which_no_secret_is_agreed_ends_the_round(lost):
    """X25519's neutral key: everybody would know what it gives.  Its neighbours send no vector, and the round ends."""
    parties = Parties(count=10, lost=lost)
    answer_of = parties.exchange

    def exchange(name, request):
        if name != WRONG or request.name != "advertise":
            return answer_of(name, request)
        reply, facts = answer_of(name, request), parties.facts(name, request)
        keys = bytes(32) + to_bytes(reply["keys"])[32:]
        text = keys_text(to_bytes(reply["context"]), name, keys)
        return {**reply, "keys": to_tensor(keys), "signature": to_tensor(facts.signer.sign(text))}

    parties.exchange = exchange
    answer = parties.run()
    assert answer.total.count == 0
    assert "must remain" in answer.notes[0]
    assert all("shared key" in refusal for refusal in parties.refusals.values())
