"""A small aiohttp server in a thread, with the routes and TLS settings that a test gives."""

import asyncio
import contextlib
import threading

from aiohttp import web

from headway.federation.serving.http_bodies import answer_problems


@contextlib.contextmanager
def serving(routes, context=None, host="127.0.0.1"):
    """Yields the port."""
    begun, found = threading.Event(), {}

    async def main():
        app = web.Application(middlewares=[answer_problems])
        for method, path, handler in routes:
            app.router.add_route(method, path, handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, host, 0, ssl_context=context).start()
        found["port"] = runner.addresses[0][1]
        found["loop"], found["end"] = asyncio.get_running_loop(), asyncio.Event()
        begun.set()
        await found["end"].wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert begun.wait(60)
    try:
        yield found["port"]
    finally:
        found["loop"].call_soon_threadsafe(found["end"].set)
        thread.join(60)
