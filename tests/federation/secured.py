"""A federation with certificates in one process: its authority, its server over TLS, and clients that sign."""

import contextlib
import hashlib

from network import Network
from raw_client import RawClient

from headway.federation.identity.authority import Authority
from headway.federation.identity.node_identity import NodeIdentity
from headway.federation.identity.server_access import AccessOptions, ServerAccess
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.spool import Spool


class Secured:
    """folder: of the authority (`ca`), the server, each relay and each client; options: of `AccessOptions`."""

    def __init__(self, folder, clients, relays=(), **options):
        self.folder, self.options = folder, options
        with Authority.create(folder / "ca") as authority:
            for name in ("server", *relays):
                authority.issue(name, folder / name, hosts=("localhost", "127.0.0.1"))
            for name in clients:
                authority.issue(name, folder / name)

    def identity(self, name):
        return NodeIdentity.load(self.folder / name)

    def connect(self, url, name, identity=None, certificate=True):
        """A raw client that signs its calls."""
        own = identity or self.identity(name)

        def sign(method, path, body):
            return own.sign_headers(method, path, hashlib.sha256(body).hexdigest())

        return RawClient(url, name, sign, own.client_context(own_certificate=certificate))

    @contextlib.contextmanager
    def network(self, algorithm, task, rounds, **options):
        """A running server."""
        given = AccessOptions(identity=self.folder / "server", authority=self.folder / "ca", **self.options)
        access = ServerAccess.of("127.0.0.1", given)
        network = Network.of(
            algorithm,
            task,
            Spool(self.folder / "spool"),
            EventLog(self.folder),
            rounds,
            access=(access.admission, access.context, access.routes()),
            **options,
        )
        network.connect = self.connect
        try:
            yield network
        finally:
            network.close()
            access.close()
