"""The proofs of an enrolment cover all that is exchanged."""

import pytest
from pydantic import ValidationError

from headway.federation.identity.enrolment_messages import EnrolRequest, is_proof, proof_of, reply_bytes, request_bytes


def test_a_proof_is_that_of_its_data_and_secret():
    proof = proof_of(b"secret", b"data")
    assert is_proof(b"secret", b"data", proof)
    assert not is_proof(b"secret", b"date", proof)
    assert not is_proof(b"other", b"data", proof)
    assert not is_proof(b"secret", b"data", "")


@pytest.mark.parametrize("make", [request_bytes, reply_bytes])
def test_each_part_is_covered_and_a_request_is_no_reply(make):
    variants = {make(*parts) for parts in (("a", "b", "c"), ("x", "b", "c"), ("a", "x", "c"), ("a", "b", "x"))}
    assert len(variants) == 4
    assert request_bytes("a", "b", "c") != reply_bytes("a", "b", "c")


def test_a_request_has_no_room_for_anything_else():
    good = {"token": "0" * 12, "signing_key": "0" * 64, "request": "AAAA", "proof": "0" * 64, "signature": "0" * 128}
    EnrolRequest.model_validate(good)
    for change in ({"name": "x"}, {"token": "../../x"}, {"request": "A" * 8001}, {"signing_key": "Z" * 64}):
        with pytest.raises(ValidationError):
            EnrolRequest.model_validate({**good, **change})
