"""What the answer to a heartbeat brings, that is under way when the work on a request ends."""

import asyncio

from test_job_session import Federation, HeldTraining

from headway.federation import http_api as api
from headway.federation.agent import job_session
from headway.federation.agent.connection import Connection


def test_the_end_of_a_job_that_a_heartbeat_brings_is_not_asked_for_again(tmp_path, monkeypatch):
    """To the server, which may close once all clients know of the end, this one does."""
    held, paths, call_once = HeldTraining(), [], Connection.call_once

    async def after_the_end(connection, method, path, *given):
        paths.append(path)
        if path == api.HEARTBEAT:
            held.goes_on.set()
            while federation.network.assignments.state != "finished":
                await asyncio.sleep(0.01)
        return await call_once(connection, method, path, *given)

    monkeypatch.setattr(Connection, "call_once", after_the_end)
    monkeypatch.setattr(job_session, "LAST_BEAT_S", 60.0)
    monkeypatch.setattr(api, "HEARTBEAT_S", 0.01)
    with Federation(tmp_path, held.algorithm, held.task, (9,), 1, evaluate_every=None) as federation:
        assert federation.agent("client-0").join() == "finished"
    assert api.WORK not in paths[paths.index(api.HEARTBEAT) :]
    assert paths.count(api.HEARTBEAT) == 1
