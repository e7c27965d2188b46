"""The planner: how many clients side by side, and on how many threads, are fastest on this machine, measured."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from headway.core.ask import Ask, Message
from headway.engines.units import NoRoom, UnitRunner

COARSE = (2, 8, 32, 128, 512)  # lanes to try
PATIENCE_S = 4.0  # after which no other width is tried
REPEATS = 3
MOST = 1024
CLOSE = 1.05  # times the best: the fewer lanes are preferred


@dataclass(frozen=True, slots=True)
class Plan:
    """How clients are trained: part of what fixes a run's bits.

    lanes: how many side by side.  threads: of torch, in each process.
    seconds: what one client took, in the way chosen, and one at a time on one thread; `None` if nothing was measured.
    """

    lanes: int
    threads: int
    seconds: tuple[float, float] | None = None
    remembered: bool = False

    @property
    def spoken(self) -> str:
        """The plan in a line."""
        side = "clients one at a time" if self.lanes == 1 else f"{self.lanes} clients side by side"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        if self.seconds is None:
            return f"{side}, {threads}"
        chosen, alone = (f"{1e3 * seconds:.3g} ms" for seconds in self.seconds)
        when = "as measured before" if self.remembered else "measured"
        beside = "" if (self.lanes, self.threads) == (1, 1) else f", one at a time on one thread {alone}"
        return f"{side}, {threads}: {chosen} a client{beside} ({when})"


def make_plan(runner: UnitRunner, cohort: int, most_threads: int, store: Path | None) -> Plan:
    """The fastest plan for the runner's job, measured on its own model and clients, or remembered.

    cohort: how many clients a process trains in a round, which limits the lanes.  most_threads: that torch may use.
    store: a file in which plans are remembered, by model, shapes, machine and versions; `None` remembers nothing.

    Nothing that is measured changes a model, a memory or a random number of the run.
    """
    name = _fingerprint(runner, cohort, most_threads)
    if (known := _recall(store, name)) is not None:
        return known
    try:
        chosen = _measure(runner, cohort, most_threads)
    except Exception:  # whatever a model may raise: the run itself will raise it, with client and stage
        return Plan(1, most_threads)
    _remember(store, name, chosen)
    return chosen


def _measure(runner: UnitRunner, cohort: int, most_threads: int) -> Plan:
    """One at a time first, on one thread and on all; then lanes, coarsely, and around the best of those."""
    trial = _Trial(runner, cohort)
    found: dict[tuple[int, int], float] = {}
    deadline = time.perf_counter() + PATIENCE_S
    for threads in sorted({1, most_threads}):
        with _threads(threads):
            found[1, threads] = trial.seconds(1)

    def attempt(width: int) -> None:
        """Measures lanes on one thread, if there is time: stacked tensors gain nothing from threads that a process
        would not."""
        expected = width * min(found.values()) * (REPEATS + 1)
        if (width, 1) not in found and time.perf_counter() + expected < deadline:
            with _threads(1):
                found[width, 1] = trial.seconds(width)

    if runner.alone is None:
        widest = min(cohort, MOST)
        for width in sorted({widest, *(width for width in COARSE if width < widest)}):
            attempt(width)
        best = min(found, key=lambda key: found[key])[0]
        for width in (best // 2, 2 * best):
            if 1 < width <= widest and best > 1:
                attempt(width)
    fastest = min(found.values())
    lanes, threads = min(key for key, seconds in found.items() if seconds <= CLOSE * fastest)
    return Plan(lanes, threads, (found[lanes, threads], found[1, 1]))


class _Trial:
    """Trains clients of the run from its first model, and forgets what they did."""

    def __init__(self, runner: UnitRunner, cohort: int) -> None:
        self.runner = runner
        names = runner.job.data.clients[:MOST]
        self.ask = first_ask(runner, names[: max(cohort, 1)])

    def seconds(self, width: int) -> float:
        """What one client takes, in lanes of this width, infinite where they have no room; the first time does not
        count."""
        clients, site = self.ask.cohort[:width], self.runner.site
        spent = []
        before = site.drawn()
        try:
            for _ in range(REPEATS + 1):
                site.wait()
                begun = time.perf_counter()
                self.runner.rehearse(self.ask, clients)
                site.wait()
                spent.append((time.perf_counter() - begun) / len(clients))
        except NoRoom:
            return math.inf
        finally:
            site.rewind(before)
        return statistics.median(spent[1:])


def first_ask(runner: UnitRunner, clients: Sequence[str]) -> Ask:
    """What these clients would be asked in the run's first round."""
    start, chain = runner.bench.shared.clone(), runner.job.algorithm.chain
    buffers = runner.bench.statistics() if "buffers" in runner.expected else None
    return Ask("train", Message(start, chain.broadcast(chain.init(start)), buffers), tuple(clients))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fingerprint(runner: UnitRunner, cohort: int, most_threads: int) -> str:
    """What a plan is good for: the model, the algorithm, the examples' shape, the machine and the versions."""
    job = runner.job
    says = [
        torch.__version__,
        platform.machine(),
        _processor(),
        os.cpu_count(),
        runner.site.name,
        most_threads,
        cohort,
        runner.bench.layout.fingerprint,
        str(runner.bench.module),
        repr(job.algorithm.chain),
        repr(job.algorithm.trainer),
        job.data.input_shape,
        float(job.data.train_sizes.median()),
        runner.measure,
    ]
    return hashlib.blake2b(repr(says).encode(), digest_size=16).hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.processor())


def default_store() -> Path:
    """Where plans are remembered: `$XDG_CACHE_HOME/headway/plans.json`, or the same under `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home or Path.home() / ".cache") / "headway" / "plans.json"


def _read(store: Path) -> dict[str, object]:
    """What is remembered; nothing, if the file is absent or damaged."""
    try:
        known = json.loads(store.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _recall(store: Path | None, name: str) -> Plan | None:
    found = None if store is None else _read(store).get(name)
    if not isinstance(found, dict):
        return None
    try:
        chosen, alone = found["seconds"]
        return Plan(int(found["lanes"]), int(found["threads"]), (float(chosen), float(alone)), remembered=True)
    except (KeyError, TypeError, ValueError):
        return None


def _remember(store: Path | None, name: str, chosen: Plan) -> None:
    """Writes the plan beside the others; a folder that cannot be written is no reason to stop a run."""
    if store is None:
        return
    kept = asdict(chosen)
    del kept["remembered"]
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        fresh = store.with_suffix(f".{os.getpid()}.tmp")
        fresh.write_text(json.dumps({**_read(store), name: kept}, indent=1))
        fresh.replace(store)
    except OSError:
        return
