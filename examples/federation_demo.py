"""Four hospitals as four processes with certificates on this machine: a server, an agent for each, and a report page.

make federation-demo, or: python examples/federation_demo.py [--rounds N] [--relay] [--private] [--folder FOLDER]

With --relay, two of the hospitals reach the server through a relay, which adds their updates up.  With --private, the
server sees only their secure sum, adds noise to it, and keeps a ledger of what that has shown of a hospital; with both,
the relay sees masked updates alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

from headway.federation.identity.authority import Authority

HERE = Path(__file__).resolve().parent
FEDERATION, PRIVATE = HERE / "hospitals_federation.toml", HERE / "private_hospitals_federation.toml"
HOSPITALS = ("cleveland", "hungary", "switzerland", "va")
BEHIND_RELAY = HOSPITALS[2:]
ADDRESS = re.compile(r"https://[^\s/]+:\d+")
HEADWAY = (sys.executable, "-m", "headway")


def main() -> int:
    """Runs the demonstration; the exit code of the server."""
    options = arguments()
    folder = options.folder
    if folder.exists() and any(folder.iterdir()):
        print(f"{folder} is not empty: remove it, or choose another place with --folder.", file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    text = (PRIVATE if options.private else FEDERATION).read_text()
    if options.relay:
        text = text.replace("[federation]\n", '[federation]\nrelays = ["relay"]\n')
    (folder / "federation.toml").write_text(text)
    certify(folder, (*HOSPITALS, *(["relay"] if options.relay else [])))
    with Processes(folder) as processes:
        rounds = ["--rounds", str(options.rounds)] if options.rounds else []
        server = processes.start(
            "server", "serve", "federation.toml", "--port", "0", "--out", "run", *rounds, shown=True
        )
        url = server.address()
        ways = dict.fromkeys(HOSPITALS, url)
        if options.relay:
            relay = processes.start("relay", "relay", url, "--identity", "relay", "--port", "0", "--clients", "2")
            ways |= dict.fromkeys(BEHIND_RELAY, relay.address())
        for hospital, way in ways.items():
            processes.start(hospital, "join", way, "--identity", hospital, "--data", f"hospitals:{hospital}")
        code = server.process.wait()
    if code:
        print(f"the server ended with {code}; the logs of all processes are in {folder / 'logs'}.", file=sys.stderr)
        return code
    return subprocess.run([*HEADWAY, "report", "run"], cwd=folder, env=environment(), check=False).returncode


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where all of it is kept; federation-demo here by default")
    parser.add_argument("--rounds", type=int, help="how many rounds, instead of the file's")
    parser.add_argument("--relay", action="store_true", help="two of the hospitals join through a relay")
    parser.add_argument("--private", action="store_true", help="a secure sum, noise, and a privacy ledger")
    options = parser.parse_args()
    if options.folder is None:  # another one for each kind, so that one can be run after another
        kinds = [kind for kind in ("relay", "private") if getattr(options, kind)]
        options.folder = Path("-".join(("federation-demo", *kinds)))
    return options


def certify(folder: Path, nodes: tuple[str, ...]) -> None:
    """What `headway identity ca` and `headway identity issue` do: an authority, and a key and certificate for each."""
    with Authority.create(folder / "ca") as authority:
        for node in ("server", *nodes):
            authority.issue(node, folder / node, ("localhost",) if node in ("server", "relay") else ())
    print(f"a certificate authority and {len(nodes) + 1} certificates, in {folder}")


def environment() -> dict[str, str]:
    """One thread for each process, since all of them are on this machine."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


class Started:
    """A process, its output in a file, and shown where it is asked for."""

    def __init__(self, name: str, words: list[str], folder: Path, shown: bool) -> None:
        self.name, self.shown, self.log = name, shown, folder / "logs" / f"{name}.log"
        self.log.parent.mkdir(exist_ok=True)
        self._address = threading.Event()
        self._found = ""
        self.process = subprocess.Popen(
            [*HEADWAY, *words],
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.log.open("w", encoding="utf-8") as log:
            for line in self.process.stdout:
                log.write(line)
                log.flush()
                if self.shown:
                    print(line, end="", flush=True)
                if not self._found and (found := ADDRESS.search(line)):
                    self._found = found[0]
                    self._address.set()
        self._address.set()

    def address(self) -> str:
        """The address that it prints."""
        self._address.wait(60)
        if not self._found:
            sys.exit(f"{self.name} has not begun: see {self.log}")
        return self._found

    def close(self) -> None:
        """Waits a moment for its own end, and then ends it."""
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
            self.process.kill()
        self.process.wait()
        self._reader.join(5)


class Processes:
    """The processes of the demonstration, all of which end with it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, list[Started]()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for each in reversed(self.started):
            if kind is not None:
                each.process.terminate()
            each.close()

    def start(self, name: str, *words: str, shown: bool = False) -> Started:
        """Starts a command of Headway in the folder."""
        self.started.append(Started(name, list(words), self.folder, shown))
        return self.started[-1]


if __name__ == "__main__":
    sys.exit(main())
