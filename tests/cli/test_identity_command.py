"""`headway identity`: the files that it makes, what it prints, and mistakes as one sentence."""

import io
import json
import re

import pytest

from headway.federation.identity.node_identity import NodeIdentity


@pytest.fixture
def made(headway):
    """In a folder with an authority."""
    assert headway("identity", "ca")[0] == 0

    def succeeds(*arguments):
        code, out, err = headway("identity", *arguments)
        assert (code, "Traceback" in err) == (0, False), err
        return out

    return succeeds


def test_an_authority_a_server_and_a_node(made, tmp_path):
    assert "serves localhost, 10.0.0.1" in made("issue", "server", "--host", "localhost", "--host", "10.0.0.1")
    made("issue", "cleveland", "--out", "ids/c", "--days", "30")
    assert NodeIdentity.load(tmp_path / "server").facts.hosts == ("localhost", "10.0.0.1")
    assert NodeIdentity.load(tmp_path / "ids" / "c").name == "cleveland"
    listed = made("list")
    assert re.search(r"cleveland +valid +\d{4}-\d\d-\d\d", listed)
    assert re.search(r"server +valid .* localhost, 10.0.0.1", listed)


def test_a_revoked_node_is_listed_so(made):
    made("issue", "cleveland")
    assert "revoked 'cleveland': 1 valid certificate\n" in made("revoke", "cleveland")
    (line,) = made("list", "--json").splitlines()
    assert (json.loads(line)["name"], json.loads(line)["state"]) == ("cleveland", "revoked")


def test_keys_that_were_revoked_are_certified_again_with_a_warning(made, headway, tmp_path):
    made("issue", "cleveland")
    assert headway("identity", "issue", "cleveland")[2] == ""  # a renewal
    made("revoke", "cleveland")
    assert "that was revoked, and admit 'cleveland' again" in headway("identity", "issue", "cleveland")[2]
    made("revoke", "cleveland")
    (tmp_path / "cleveland").rename(tmp_path / "old")
    assert headway("identity", "issue", "cleveland")[2] == ""  # new keys


def test_a_token_is_alone_on_standard_output_and_is_not_listed(made):
    done = made("issue", "new", "--token")
    assert re.fullmatch(r"[0-9a-f]{12}\.[0-9a-f]{48}\n", done)
    listed = made("list")
    assert re.search(r"new +token", listed)
    assert done.strip().partition(".")[2] not in listed


def test_a_token_is_read_where_it_is_not_in_the_list_of_processes(made, headway, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("nonsense\n"))
    assert "not an enrolment token" in headway("identity", "enrol", "https://127.0.0.1:1", "-")[2]
    token = made("issue", "new", "--token")
    monkeypatch.setattr("sys.stdin", io.StringIO(token))
    assert "cannot reach https://127.0.0.1:1" in headway("identity", "enrol", "https://127.0.0.1:1", "-")[2]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("ca",), "holds an authority"),
        (("issue", "a/b"), "not a name"),
        (("issue", "a", "--ca", "none"), "no certificate authority in none"),
        (("issue", "a", "--out", "ca"), "name another folder"),
        (("issue", "a", "--host", "https://x"), "not the name or address of a host"),
        (("issue", "a", "--token", "--key", "zz"), "64 hexadecimal digits"),
        (("revoke", "nobody"), "no node 'nobody' in ca"),
        (("list", "--ca", "none"), "no registry of nodes in none"),
        (("enrol", "https://127.0.0.1:1", "x"), "not an enrolment token"),
        (("enrol", "http://example.org", "x"), "for this machine alone"),
    ],
)
def test_a_mistake_is_one_sentence(made, headway, arguments, sentence):
    code, out, err = headway("identity", *arguments)
    assert (code, out) == (1, "")
    assert sentence in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
