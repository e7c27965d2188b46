"""A browser under remote control, for tests of pages: Chromium's own protocol over a local websocket."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-port=0",
    "about:blank",
)  # fmt: skip


class Browser:
    """One tab.  console: what the page's script reported; addresses: what the page asked for."""

    def __init__(self) -> None:
        self.console: list[str] = []
        self.addresses: list[str] = []
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._number = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def started(cls, profile: Path):
        process = subprocess.Popen(
            [CHROMIUM, *ARGUMENTS, f"--user-data-dir={profile}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            browser, port = cls(), await _port(profile)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                    (tab, *_) = [each for each in await response.json() if each["type"] == "page"]
                async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    browser.socket = socket
                    reading = asyncio.create_task(browser._read())
                    for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
                        await browser.call(f"{domain}.enable")
                    yield browser
                    reading.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await reading
        finally:
            process.kill()
            process.wait()

    async def _read(self) -> None:
        async for message in self.socket:
            news = message.json()
            if (waiting := self._replies.pop(news.get("id", -1), None)) is not None:
                waiting.set_result(news)
            elif news.get("method") == "Network.requestWillBeSent":
                self.addresses.append(news["params"]["request"]["url"])
            elif news.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                self.console.append(str(news["params"]))

    async def call(self, method: str, **parameters: Any) -> Any:
        """Calls the browser; its result."""
        self._number += 1
        waiting = self._replies[self._number] = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"id": self._number, "method": method, "params": parameters})
        reply = await asyncio.wait_for(waiting, 60)
        assert "error" not in reply, reply
        return reply["result"]

    async def open(self, address: str) -> None:
        """Opens an address."""
        await self.call("Page.navigate", url=address)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def value(self, expression: str) -> Any:
        """The value of an expression in the page."""
        made = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in made, made
        return made["result"].get("value")

    async def until(self, expression: str) -> None:
        """Waits until an expression is true in the page."""
        for _ in range(2400):
            if await self.value(f"Boolean({expression})"):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never became true: {expression}")

    async def press(self, key: str, code: int) -> None:
        """Presses a key."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    async def look(self, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Sets the size of the window and the preferred colours."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        colours = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.call("Emulation.setEmulatedMedia", features=colours)

    async def picture(self, path: Path) -> None:
        """Writes a picture of the whole page."""
        made = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(made["data"]))

    async def names(self) -> list[tuple[str, str]]:
        """The role and the name of each node that a screen reader is given."""
        nodes = (await self.call("Accessibility.getFullAXTree"))["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
        ]


async def _port(profile: Path) -> int:
    """The port that the browser has chosen."""
    file = profile / "DevToolsActivePort"
    for _ in range(2400):
        if file.is_file() and (lines := file.read_text().splitlines()):
            return int(lines[0])
        await asyncio.sleep(0.05)
    raise AssertionError("the browser did not start")
