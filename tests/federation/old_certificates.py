"""Authorities and identities whose dates lie in the past or in the future."""

import contextlib
import datetime
import types

from headway.federation.identity import authority, certificates


@contextlib.contextmanager
def at_days_from_now(days):
    """Within, certificates are made as if so many days had passed."""

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.now(tz) + datetime.timedelta(days=days)

    module = types.SimpleNamespace(datetime=Shifted, timedelta=datetime.timedelta, UTC=datetime.UTC)
    before = authority.datetime, certificates.datetime
    authority.datetime = certificates.datetime = module
    try:
        yield
    finally:
        authority.datetime, certificates.datetime = before
