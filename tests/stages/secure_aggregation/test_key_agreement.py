"""Keys that two clients have in common: known answers, and what they are bound to."""

import pytest

from headway.stages.secure_aggregation import key_agreement as keys


def test_x25519_of_rfc_7748_section_5_2():
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    assert (
        keys.PrivateKey(scalar).agreed(point).hex()
        == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    )


def test_x25519_of_rfc_7748_section_6_1():
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f92ebc099890a1e7a7d27f8e8f9")
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    assert keys.PrivateKey(bob).public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    one, other = (
        keys.PrivateKey(alice).agreed(keys.PrivateKey(bob).public),
        keys.PrivateKey(bob).agreed(keys.PrivateKey(alice).public),
    )
    assert one == other


def test_a_public_key_of_low_order_is_refused():
    with pytest.raises(ValueError, match="shared key"):
        keys.PrivateKey(bytes(range(32))).agreed(bytes(32))


def test_hkdf_of_rfc_5869_case_1():
    secret, salt, info = bytes([0x0B]) * 22, bytes(range(13)), bytes(range(0xF0, 0xFA))
    found = keys.hkdf(secret, salt, info)
    assert found.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


def test_derived_keys_are_of_one_purpose_and_context():
    made = [
        keys.derived(b"s" * 32, b"salt", b"ab", b"c"),
        keys.derived(b"s" * 32, b"salt", b"a", b"bc"),
        keys.derived(b"s" * 32, b"salt", b"abc"),
        keys.derived(b"s" * 32, b"other", b"ab", b"c"),
        keys.derived(b"t" * 32, b"salt", b"ab", b"c"),
    ]
    assert len(set(made)) == len(made)
    assert len({keys.digest("a", b"b"), keys.digest("ab"), keys.digest("a", b"b", b"")}) == 3


def test_a_sealed_message_opens_with_its_key_and_about_the_same_alone():
    key, other = bytes(32), bytes([1]) * 32
    message = keys.sealed(key, b"plain", b"about")
    assert len(message) == len(b"plain") + keys.TAG
    assert keys.opened(key, message, b"about") == b"plain"
    assert keys.opened(other, message, b"about") is None
    assert keys.opened(key, message, b"else") is None
    assert keys.opened(key, message[:-1] + bytes([message[-1] ^ 1]), b"about") is None
    assert keys.opened(key, message[1:], b"about") is None
