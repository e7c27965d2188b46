"""The identities of simulated clients."""

import pytest

from headway.client.derived_signer import DerivedSigner
from headway.numerics.keys import Key

ONE, OTHER = DerivedSigner("a", Key.root(7)), DerivedSigner("b", Key.root(7))


def test_a_signature_is_that_of_one_client_and_one_text() -> None:
    signature = ONE.sign(b"text")
    assert len(signature) == 64
    assert OTHER.verify("a", b"text", signature)
    assert not OTHER.verify("b", b"text", signature)
    assert not OTHER.verify("a", b"texts", signature)


@pytest.mark.parametrize("signature", [b"", b"\0" * 64, b"x" * 65])
def test_what_is_no_signature_is_refused(signature) -> None:
    assert not ONE.verify("a", b"text", signature)


def test_runs_have_identities_of_their_own_that_repeat() -> None:
    assert DerivedSigner("a", Key.root(7)).sign(b"text") == ONE.sign(b"text")
    assert not DerivedSigner("a", Key.root(8)).verify("a", b"text", ONE.sign(b"text"))
    assert "secret" not in repr(ONE)
