"""What is signed of a request, and what is read from its headers."""

import dataclasses

import pytest

from headway.federation.http_api import NODE
from headway.federation.identity import request_signature as signature

REQUEST = signature.SignedRequest("POST", "/v1/work?x=1", "Z%C3%BCrich", "job%201", 3, 17, "ab" * 16, "cd" * 32)


def test_the_headers_hold_the_request():
    assert signature.request_of("POST", "/v1/work?x=1", REQUEST.headers("ef" * 64)) == (
        REQUEST,
        bytes.fromhex("ef" * 64),
    )


def test_the_signed_bytes_are_as_documented():
    lines = ["headway-request", "1", "POST", "/v1/work?x=1", "Z%C3%BCrich", "job%201", "3", "17", "ab" * 16, "cd" * 32]
    assert REQUEST.signed_bytes == "".join(f"{line}\n" for line in lines).encode()


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(REQUEST)])
def test_each_fact_changes_what_is_signed(field):
    value = getattr(REQUEST, field)
    changed = dataclasses.replace(REQUEST, **{field: value + 1 if isinstance(value, int) else value + "0"})
    assert changed.signed_bytes != REQUEST.signed_bytes


@pytest.mark.parametrize("header", [NODE, *[n for n in REQUEST.headers("") if n not in (NODE, signature.RUN)]])
def test_a_missing_header_is_named(header):
    headers = REQUEST.headers("ef" * 64)
    del headers[header]
    with pytest.raises(ValueError, match=f"{header} is missing"):
        signature.request_of("POST", "/", headers)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (NODE, ""),
        (NODE, "a b"),
        (NODE, "a\nb"),
        (signature.ROUND, "-1"),
        (signature.ROUND, "٣"),
        (signature.SEQUENCE, "1" * 17),
        (signature.SEQUENCE, str(2**53)),
        (signature.SEQUENCE, "1e3"),
        (signature.NONCE, "AB" * 16),
        (signature.BODY_DIGEST, "cd" * 31),
        (signature.SIGNATURE, "ef" * 63),
        (signature.SIGNATURE, "x" * 128),
    ],
)
def test_a_malformed_header_is_named(header, value):
    with pytest.raises(ValueError, match=f"{header} is malformed"):
        signature.request_of("POST", "/", {**REQUEST.headers("ef" * 64), header: value})


@pytest.mark.parametrize("name", ["cleveland", "Zürich 1", "a%2Fb", "名", "x" * 200])
def test_a_name_comes_back_from_its_header(name):
    header = signature.name_to_header(name)
    assert header.isascii()
    assert " " not in header
    assert signature.name_from_header(header) == name


@pytest.mark.parametrize(
    "header", ["", ".", "..", "%2E%2E", "a%2Fb", "..%5Cx", "a%0Ab", "a%C2%9Bb", "%FF", "Zürich", "a\udc80b", "x" * 201]
)
def test_what_is_not_a_name_is_refused(header):
    with pytest.raises(ValueError):
        signature.name_from_header(header)
