"""The options of a server that concern identity: what they give, and which of them contradict each other."""

from contextlib import closing

import pytest

from headway.federation.identity.admission import NotAdmitted
from headway.federation.identity.authority import Authority
from headway.federation.identity.node_identity import NodeIdentity
from headway.federation.identity.private_files import IdentityError
from headway.federation.identity.server_access import AccessOptions, ServerAccess


@pytest.fixture
def options(folders):
    return {"identity": folders / "server", "authority": folders / "ca"}


def test_a_server_with_an_identity(options, folders, tmp_path):
    with closing(ServerAccess.of("0.0.0.0", AccessOptions(**options), tmp_path / "state")) as access:
        assert access.scheme == "https"
        assert [route[1] for route in access.routes()] == ["/v1/enrol"]
        assert any("valid until" in note for note in access.notes)
        node = NodeIdentity.load(folders / "cleveland")
        headers = node.sign_headers("GET", "/")
        assert access.admission.authenticate("GET", "/", headers, None, node.facts.der) == "cleveland"
        with pytest.raises(NotAdmitted, match="no client certificate"):
            access.admission.authenticate("GET", "/", node.sign_headers("GET", "/"), None, None)
    assert not (folders / "ca" / "accepted.sqlite").exists()


@pytest.mark.parametrize(("host", "scheme"), [("127.0.0.1", "http"), ("10.0.0.1", "https")])
def test_behind_a_proxy_signatures_count_alone_and_that_is_said(options, folders, tmp_path, host, scheme):
    with closing(ServerAccess.of(host, AccessOptions(**options, behind_proxy=True), tmp_path)) as access:
        assert access.scheme == scheme
        assert any("--behind-proxy" in note for note in access.notes)
        headers = NodeIdentity.load(folders / "cleveland").sign_headers("GET", "/")
        assert access.admission.authenticate("GET", "/", headers, None, None) == "cleveland"


def test_without_the_key_of_the_authority_nodes_are_not_enrolled_and_that_is_said(options, folders, tmp_path):
    (folders / "ca" / "ca.key").unlink()
    with closing(ServerAccess.of("0.0.0.0", AccessOptions(**options), tmp_path)) as access:
        assert access.routes() == []
        assert any("not enrolled here" in note for note in access.notes)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_without_identities_on_this_machine_there_is_a_warning(host, tmp_path):
    with closing(ServerAccess.of(host, AccessOptions(insecure=True), tmp_path)) as access:
        assert (access.scheme, access.context, access.routes()) == ("http", None, [])
        assert access.notes[0].startswith("WARNING")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "example.org"])
def test_without_identities_no_other_machine_is_served(host, tmp_path):
    with pytest.raises(IdentityError, match="for this machine alone"):
        ServerAccess.of(host, AccessOptions(insecure=True), tmp_path)


@pytest.mark.parametrize("more", [{"identity": "server"}, {"authority": "ca"}, {"behind_proxy": True}])
def test_options_that_contradict_each_other_are_refused(more, options, tmp_path):
    given = {key: options.get(key, value) for key, value in more.items()}
    with pytest.raises(IdentityError, match="--insecure goes without"):
        ServerAccess.of("127.0.0.1", AccessOptions(insecure=True, **given), tmp_path)


@pytest.mark.parametrize("missing", ["identity", "authority"])
def test_a_server_without_identity_or_registry_says_how_to_get_them(options, missing, tmp_path):
    with pytest.raises(IdentityError, match=r"headway identity ca ca.*--insecure"):
        ServerAccess.of("127.0.0.1", AccessOptions(**{**options, missing: None}), tmp_path)


def test_the_registry_of_another_authority_is_refused(options, tmp_path):
    with Authority.create(tmp_path / "other"):
        pass
    with pytest.raises(IdentityError, match="from another authority than the one in"):
        ServerAccess.of("0.0.0.0", AccessOptions(**{**options, "authority": tmp_path / "other"}), tmp_path)
    with pytest.raises(IdentityError, match=r"ca\.pem is missing"):
        ServerAccess.of("0.0.0.0", AccessOptions(**{**options, "authority": tmp_path / "none"}), tmp_path)


def test_a_client_cannot_serve(options, folders, tmp_path):
    with pytest.raises(IdentityError, match="--host"):
        ServerAccess.of("0.0.0.0", AccessOptions(**{**options, "identity": folders / "cleveland"}), tmp_path)


def test_numbers_of_requests_are_kept_with_the_identity_over_runs(options, folders):
    """A request of an earlier run, of another folder, is refused."""
    node = NodeIdentity.load(folders / "cleveland")
    recorded = node.sign_headers("POST", "/v1/leave")
    with closing(ServerAccess.of("0.0.0.0", AccessOptions(**options))) as access:
        assert access.admission.authenticate("POST", "/v1/leave", recorded, None, node.facts.der) == "cleveland"
    with closing(ServerAccess.of("0.0.0.0", AccessOptions(**options))) as access, pytest.raises(NotAdmitted):
        access.admission.authenticate("POST", "/v1/leave", recorded, None, node.facts.der)


def test_the_names_of_the_certificate_are_those_of_the_address(options, tmp_path):
    with closing(ServerAccess.of("0.0.0.0", AccessOptions(**options), tmp_path)) as access:
        assert set(access.hosts) == {"localhost", "127.0.0.1"}
    with closing(ServerAccess.of("127.0.0.1", AccessOptions(insecure=True), tmp_path)) as access:
        assert access.hosts == ()
