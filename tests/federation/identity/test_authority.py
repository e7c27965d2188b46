"""A certificate authority: who gets a certificate, and for what."""

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from headway.federation.identity.authority import Authority
from headway.federation.identity.node_identity import NodeIdentity
from headway.federation.identity.private_files import IdentityError


@pytest.fixture
def authority(folders):
    with Authority.load(folders / "ca") as loaded:
        yield loaded


def usages(identity):
    certificate = x509.load_der_x509_certificate(identity.facts.der)
    return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_only_a_node_with_hosts_may_serve(authority, tmp_path):
    client = authority.issue("a", tmp_path / "a")
    server = authority.issue("b", tmp_path / "b", hosts=("example.org", "10.0.0.1", "::1"))
    assert usages(client) == {ExtendedKeyUsageOID.CLIENT_AUTH}
    assert usages(server) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert set(server.facts.hosts) == {"example.org", "10.0.0.1", "::1"}


@pytest.mark.parametrize("host", ["", "https://x.org", "x.org:8443", "two words"])
def test_a_host_is_a_name_or_an_address(authority, tmp_path, host):
    with pytest.raises(IdentityError, match="not the name or address of a host"):
        authority.issue("a", tmp_path / "a", hosts=(host,))


def test_an_authority_is_not_made_twice(folders):
    with pytest.raises(IdentityError, match="shut out its nodes"):
        Authority.create(folders / "ca")


def test_a_folder_without_an_authority_says_how_to_make_one(tmp_path):
    with pytest.raises(IdentityError, match="headway identity ca"):
        Authority.load(tmp_path)


def test_an_authority_whose_key_others_can_read_is_refused(folders):
    (folders / "ca" / "ca.key").chmod(0o644)
    with pytest.raises(IdentityError, match="readable by others"):
        Authority.load(folders / "ca")


def test_a_name_in_use_gets_no_second_key(authority, tmp_path):
    with pytest.raises(IdentityError, match="another key: revoke it first"):
        authority.issue("cleveland", tmp_path / "second")
    assert authority.registry.revoke("cleveland") == 1
    authority.issue("cleveland", tmp_path / "third")


def test_a_certificate_is_renewed_with_its_keys(authority, folders):
    before = (folders / "cleveland" / "signing.key").read_bytes()
    renewed = authority.issue("cleveland", folders / "cleveland", days=700)
    assert (folders / "cleveland" / "signing.key").read_bytes() == before
    assert len(authority.registry.of_name("cleveland")) == 2
    assert renewed.facts.key == authority.registry.of_name("cleveland")[0].certificate.key


def test_a_server_that_is_renewed_keeps_its_hosts(authority, folders):
    before = NodeIdentity.load(folders / "server").facts
    renewed = authority.issue("server", folders / "server", days=700).facts
    assert renewed.hosts == before.hosts
    assert renewed.not_after > before.not_after
    assert authority.issue("server", folders / "server", hosts=("other.org",)).facts.hosts == ("other.org",)


def test_a_folder_of_another_node_or_authority_is_left_alone(authority, folders):
    with pytest.raises(IdentityError, match="holds the identity of 'cleveland'"):
        authority.issue("new", folders / "cleveland")
    with pytest.raises(IdentityError, match="holds a certificate authority"):
        authority.issue("new", folders / "ca")


def test_no_certificate_outlives_its_authority(tmp_path):
    with Authority.create(tmp_path / "ca", days=2) as authority:
        issued = authority.issue("a", tmp_path / "a", days=365).facts
        assert issued.not_after <= authority.not_after


def test_an_expired_authority_issues_nothing(tmp_path):
    with (
        Authority.create(tmp_path / "ca", days=0) as authority,
        pytest.raises(IdentityError, match="authority expired"),
    ):
        authority.issue("a", tmp_path / "a")


def test_a_long_name_is_kept_whole(authority, tmp_path):
    name = "Städtisches Krankenhaus " * 8
    assert authority.issue(name, tmp_path / "a").name == name
