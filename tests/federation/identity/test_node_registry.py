"""The registry: what one process writes, another one sees at its next look."""

import os
import shutil
import time
from contextlib import closing

import pytest

from headway.federation.identity.authority import Authority
from headway.federation.identity.node_registry import NodeRegistry
from headway.federation.identity.private_files import IdentityError


@pytest.fixture
def registry(folders):
    with closing(NodeRegistry(folders / "ca")) as opened:
        yield opened


def test_a_revocation_by_another_process_counts_from_the_next_look(folders, registry):
    (before,) = registry.of_name("cleveland")
    assert before.state(time.time()) == "valid"
    with closing(NodeRegistry(folders / "ca")) as other:
        assert other.revoke("cleveland") == 1
        assert other.of_name("cleveland")[0].state(time.time()) == "revoked"
        assert other.revoke("cleveland") == 0
    assert registry.of_name("cleveland")[0].state(time.time()) == "revoked"
    assert registry.of_fingerprint(before.certificate.fingerprint).revoked is not None
    assert registry.of_name("Zürich")[0].revoked is None


def test_a_node_issued_by_another_process_is_known(folders, registry, tmp_path):
    assert registry.of_name("new") == ()
    with Authority.load(folders / "ca") as authority:
        identity = authority.issue("new", tmp_path / "new")
    assert registry.of_fingerprint(identity.facts.fingerprint).certificate == identity.facts


def test_an_expired_certificate_is_not_valid(registry):
    (issued,) = registry.of_name("cleveland")
    assert issued.state(issued.certificate.not_after + 1) == "expired"


def test_a_token_is_used_once_by_one_key(folders, registry):
    token = registry.new_token("new", ("a.org", "b.org"), 30, 24)
    assert registry.token(token.id) == token
    assert registry.tokens() == [token]
    certificate = registry.of_name("cleveland")[0].certificate
    other = NodeRegistry(folders / "ca")
    (_, secret) = token.text.split(".")
    assert bytes.fromhex(secret) == token.secret
    new = Authority.load(folders / "ca")
    made = new.issue("temporary", folders / "temporary").facts
    new.registry._database.execute("DELETE FROM certificates WHERE fingerprint = ?", (made.fingerprint,))
    assert registry.use_token(token, made)
    assert not other.use_token(token, certificate)
    assert other.token(token.id).key == made.key
    assert registry.tokens() == []
    other.close()
    new.close()


def test_revoking_a_node_ends_its_unused_tokens(registry):
    token = registry.new_token("new", (), 30, 24)
    registry.revoke("new")
    assert registry.token(token.id) is None


def test_certificates_are_listed_by_name(registry):
    assert [issued.certificate.name for issued in registry.all()] == sorted(["Zürich", "cleveland", "server"])


@pytest.mark.parametrize("copy", [shutil.copyfile, shutil.move], ids=["written over", "put in its place"])
def test_a_newer_copy_counts_from_the_next_look(folders, registry, tmp_path, copy):
    """The registry of a server without the authority's key is a copy."""
    assert registry.of_name("cleveland")[0].revoked is None
    shutil.copytree(folders / "ca", tmp_path / "elsewhere")
    with closing(NodeRegistry.of(tmp_path / "elsewhere")) as other:
        other.revoke("cleveland")
    copy(tmp_path / "elsewhere" / "registry.sqlite", folders / "ca" / "registry.sqlite")
    assert registry.of_name("cleveland")[0].revoked is not None


def test_the_file_is_whole_by_itself_while_it_is_in_use(folders, registry, tmp_path):
    registry.revoke("cleveland")
    assert not list((folders / "ca").glob("registry.sqlite-*"))


def test_a_registry_that_is_gone_is_one_sentence(folders, registry):
    (folders / "ca" / "registry.sqlite").unlink()
    with pytest.raises(IdentityError, match="is gone"):
        registry.of_name("cleveland")


def test_a_file_that_was_not_written_for_long_is_not_read_again(folders, registry):
    past = time.time() - 60
    os.utime(folders / "ca" / "registry.sqlite", (past, past))
    registry.all()
    registry._database.set_trace_callback(pytest.fail)
    registry.of_name("cleveland")
    registry._database.set_trace_callback(None)
    with closing(NodeRegistry.of(folders / "ca")) as other:
        other.revoke("cleveland")
    assert registry.of_name("cleveland")[0].revoked is not None


def test_the_tables_of_registries_that_write_by_turns_are_those_of_the_file(folders, tmp_path):
    first, second = Authority.load(folders / "ca"), Authority.load(folders / "ca")
    names = [f"node-{number}" for number in range(6)]
    for number, name in enumerate(names):
        (first, second)[number % 2].issue(name, tmp_path / name)
        first.registry.revoke("node-1")
    again = second.issue("node-1", tmp_path / "again").facts
    with closing(NodeRegistry(folders / "ca")) as fresh:
        assert first.registry.all() == second.registry.all() == fresh.all()
        assert fresh.of_name("node-1")[-1].certificate == again
    first.close()
    second.close()


def test_what_a_registry_has_written_itself_is_not_read_again(folders, tmp_path, monkeypatch):
    with Authority.load(folders / "ca") as authority:
        authority.registry.all()
        monkeypatch.setattr(NodeRegistry, "_read", lambda *_: pytest.fail("it was read"))
        made = authority.issue("new", tmp_path / "new").facts
        assert authority.registry.of_fingerprint(made.fingerprint).certificate == made
        monkeypatch.undo()
        past = time.time() - 60
        monkeypatch.setattr(time, "time", lambda: past)  # the clock has gone back
        authority.issue("newer", tmp_path / "newer")
        with closing(NodeRegistry(folders / "ca")) as fresh:
            assert authority.registry.all() == fresh.all()
