"""The replies of several clients in one frame arrive as they are, or are refused with a sentence."""

import pytest
import torch

from headway.core.errors import FrameError
from headway.protocol.by_client import joined_by_client, relayed_reply, replies_of_relay, split_by_client
from headway.protocol.messages import Declined, ExchangeReply, Scores
from headway.protocol.wire_messages import Binding, decode_reply, encode_reply

CLIENTS = ("b/\u00e9", "a", "c", "d")
BINDING = Binding(1, 0, 2)


def test_replies_and_reasons_are_those_of_the_clients():
    keys = {"keys": torch.arange(3), "deep/name": torch.tensor(1.5)}
    made = relayed_reply({"b/\u00e9": keys, "d": {}}, {"a": "it has left\u2026", "d": "not shown"}, CLIENTS)
    reply = decode_reply(encode_reply(made, BINDING), BINDING, 1 << 20)
    replies, missing = replies_of_relay(reply, CLIENTS)
    assert list(replies) == ["b/\u00e9", "d"]
    assert all(torch.equal(replies["b/\u00e9"][name], tensor) for name, tensor in keys.items())
    assert replies["d"] == {}
    assert missing == {"a": "it has left\u2026", "c": "its relay has no reply of it"}


def test_a_relay_that_declines_has_no_replies():
    assert replies_of_relay(Declined("rejected", "full"), CLIENTS[:2]) == ({}, dict.fromkeys(CLIENTS[:2], "full"))


@pytest.mark.parametrize("name", ["4/keys", "01/keys", "-1/keys", "x/keys", "keys", "1/", "\u0661/keys", "1" * 5000])
def test_a_tensor_of_no_client_is_refused(name):
    with pytest.raises(FrameError, match="is of none of the 4 clients"):
        split_by_client({name: torch.ones(1)}, CLIENTS)


@pytest.mark.parametrize(
    "marks", [None, torch.ones(3, dtype=torch.uint8), torch.ones(4), torch.ones(4, 1, dtype=torch.uint8)]
)
def test_a_reply_that_does_not_mark_the_clients_is_refused(marks):
    tensors = {} if marks is None else {"replied": marks}
    with pytest.raises(FrameError, match="which of its 4 clients"):
        replies_of_relay(ExchangeReply(tensors), CLIENTS)


def test_another_reply_and_a_reason_that_is_none_are_no_replies():
    with pytest.raises(FrameError, match="found Scores"):
        replies_of_relay(Scores({}, 1), CLIENTS)
    none = torch.zeros(1, dtype=torch.uint8)
    for reason in (torch.ones(3), torch.full((1 << 14,), 65, dtype=torch.uint8)):
        assert replies_of_relay(ExchangeReply({"replied": none, "0/reason": reason}), ("a",)) == (
            {},
            {"a": "its relay has no reply of it"},
        )
    raw = torch.tensor([255, 65], dtype=torch.uint8)
    assert replies_of_relay(ExchangeReply({"replied": none, "0/reason": raw}), ("a",))[1] == {"a": "\ufffdA"}


def test_private_tensors_of_clients_that_have_none_are_left_out():
    named = joined_by_client({"c": {"keys": torch.ones(1)}}, CLIENTS)
    assert split_by_client(named, CLIENTS).keys() == {"c"}
