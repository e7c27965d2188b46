"""The end of a server with connections over TLS: none outlives its loop."""

import gc
import warnings

import pytest
from network import TrustingAdmission
from secured import Secured

from headway.federation import http_api as api
from headway.federation.identity.server_access import AccessOptions, ServerAccess
from headway.federation.serving.assignments import Assignments
from headway.federation.serving.http_server import HttpServer
from headway.federation.serving.members import Members


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    return Secured(tmp_path_factory.mktemp("authority"), ["a"])


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed by the client"])
def test_no_connection_is_left_open(secured, tmp_path, closed):
    given = AccessOptions(identity=secured.folder / "server", authority=secured.folder / "ca")
    access = ServerAccess.of("127.0.0.1", given, tmp_path)
    gc.collect()  # what other tests have left
    server = HttpServer(None, Members(20.0), Assignments(), None, TrustingAdmission(), [])
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        server.start("127.0.0.1", 0, access.context)
        clients = [secured.connect("https://{}:{}".format(*server.address), "a") for _ in range(4)]
        for client in clients:
            assert client.call("GET", api.HEALTH).status == 200
        if closed:
            for client in clients:
                client.close()
        server.stop()
        gc.collect()
    for client in clients:
        client.close()
    access.close()
    assert [str(each.message) for each in found if "Transport" in str(each.message)] == []
