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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from headway.core.ask import Ask, Message
from headway.engines.units import NoRoom, UnitRunner
from headway.engines.way import Way, Wish

COARSE = (2, 8, 32, 128, 512)  # lanes to try
PATIENCE_S = 4.0  # after which no other way is tried; longer by two rounds, one client at a time, up to the most
MOST_PATIENCE_S = 20.0
REPEATS = 3
LONG_S = 1.0  # after so long nothing is repeated
MOST = 1024
CLOSE = 1.05  # times the best: the simpler way is preferred
HOPELESS = 3.0  # times the best, in a first attempt: no other follows


@dataclass(frozen=True, slots=True)
class Plan:
    """How clients are trained: part of what fixes a run's bits.

    way: in which way.  threads: of torch, in each process.
    seconds: what one client took, in the way chosen, and one at a time on one thread; `None` if nothing was measured.
    """

    way: Way
    threads: int
    seconds: tuple[float, float] | None = None
    remembered: bool = False

    @property
    def spoken(self) -> str:
        """The plan in a line."""
        said = f"{self.way.spoken}, {'1 thread' if self.threads == 1 else f'{self.threads} threads'}"
        if self.seconds is None:
            return said
        chosen, alone = (f"{1e3 * seconds:.3g} ms" for seconds in self.seconds)
        when = "as measured before" if self.remembered else "measured"
        beside = "" if (self.way, self.threads) == (Way(), 1) else f", one at a time on one thread {alone}"
        return f"{said}: {chosen} a client{beside} ({when})"


def make_plan(runner: UnitRunner, cohort: int, most_threads: int, wish: Wish, store: Path | None) -> Plan:
    """The fastest plan for the runner's job, measured on its own model and clients, or remembered.

    cohort: how many clients a process trains in a round, which limits the lanes.  most_threads: that torch may use.
    store: a file in which plans are remembered, by model, shapes, machine and versions; `None` remembers nothing.

    Nothing that is measured changes a model, a memory or a random number of the run.
    """
    name = _fingerprint(runner, cohort, most_threads, wish)
    if (known := _recall(store, name)) is not None:
        return known
    try:
        chosen = _measure(_Trial(runner, cohort), cohort, most_threads, wish)
    except Exception:  # whatever a model may raise: the run itself will raise it, with client and stage
        return Plan(Way(channels_last=bool(wish.channels_last)), most_threads)
    _remember(store, name, chosen)
    return chosen


def _measure(trial: _Trial, cohort: int, most_threads: int, wish: Wish) -> Plan:
    """One at a time first, on one thread and on all, and channels last; then crews, coarsely, and around the best."""
    runner, alone = trial.runner, Way(channels_last=bool(wish.channels_last))
    for threads in sorted({1, most_threads}):
        trial.measure(alone, threads)
    trial.deadline += min(2 * cohort * min(trial.found.values()), MOST_PATIENCE_S - PATIENCE_S)
    if wish.channels_last is None and runner.convolves:
        trial.attempt(replace(alone, channels_last=True), trial.best()[1])
    if runner.lanes is not None:
        kinds = (True, False) if runner.apart and wish.low_rank is None else (wish.low_rank,)
        last = trial.best()[0].channels_last
        for kind in kinds:
            _try_crews(trial, min(cohort, MOST), replace(alone, low_rank=kind, channels_last=last and bool(kind)))
    apart = [key for key in trial.found if key[0].lanes > 1 and key[0].low_rank]
    if apart:  # one client after another, to whom threads may be of use
        trial.attempt(min(apart, key=lambda key: trial.found[key])[0], most_threads)
    best = trial.best()
    return Plan(*best, (trial.found[best], trial.found[alone, 1]))


def _try_crews(trial: _Trial, widest: int, way: Way) -> None:
    """Crews of this kind on one thread: stacked tensors gain nothing from threads that a process would not."""
    for width in sorted({widest, *(width for width in COARSE if width < widest)}):
        trial.attempt(replace(way, lanes=width), 1)
    best = trial.best()[0].lanes
    for width in (best // 2, 2 * best):
        if 1 < width <= widest and best > 1:
            trial.attempt(replace(way, lanes=width), 1)


class _Trial:
    """Trains clients of the run from its first model in several ways, and forgets what they did.

    found: the seconds of one client, by way and threads.
    """

    def __init__(self, runner: UnitRunner, cohort: int) -> None:
        self.runner = runner
        names = runner.job.data.clients[:MOST]
        self.ask = first_ask(runner, names[: max(cohort, 1)])
        self.found: dict[tuple[Way, int], float] = {}
        self.deadline = time.perf_counter() + PATIENCE_S

    def best(self) -> tuple[Way, int]:
        """The fastest so far; of those that are nearly as fast, the simplest."""
        close = CLOSE * min(self.found.values())
        fast = (key for key, seconds in self.found.items() if seconds <= close)
        return min(fast, key=lambda key: (key[0].lanes, key[0].channels_last, key[1]))

    def attempt(self, way: Way, threads: int) -> None:
        """Measures, if there is time; a way in which the model fails is none."""
        once = way.lanes * min(self.found.values())
        expected = once if once > LONG_S else once * (REPEATS + 1)
        if (way, threads) not in self.found and time.perf_counter() + expected < self.deadline:
            with suppress(Exception):  # such as a model that counts on how its tensors lie in memory
                self.measure(way, threads)

    def measure(self, way: Way, threads: int) -> None:
        """Finds the seconds of one client."""
        with _threads(threads):
            self.found[way, threads] = self.seconds(way)

    def seconds(self, way: Way) -> float:
        """What one client takes in this way, infinite where a crew has no room; the first time does not count, unless
        it is long or hopeless."""
        self.runner.use(way)
        clients, site = self.ask.cohort[: way.lanes], self.runner.site
        spent: list[float] = []
        before = site.drawn()
        hopeless = HOPELESS * min(self.found.values(), default=math.inf)
        try:
            while not spent or (len(spent) <= REPEATS and spent[0] <= hopeless and sum(spent) * len(clients) <= LONG_S):
                site.wait()
                begun = time.perf_counter()
                self.runner.rehearse(self.ask, clients)
                site.wait()
                spent.append((time.perf_counter() - begun) / len(clients))
        except NoRoom:
            return math.inf
        finally:
            site.rewind(before)
        return statistics.median(spent[1:] or spent)


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


def _fingerprint(runner: UnitRunner, cohort: int, most_threads: int, wish: Wish) -> str:
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
        wish,
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
        return Plan(Way.of(found["way"]), int(found["threads"]), (float(chosen), float(alone)), remembered=True)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _remember(store: Path | None, name: str, chosen: Plan) -> None:
    """Writes the plan beside the others; a folder that cannot be written is no reason to stop a run."""
    if store is None:
        return
    kept = {"way": chosen.way.decided, "threads": chosen.threads, "seconds": chosen.seconds}
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        fresh = store.with_suffix(f".{os.getpid()}.tmp")
        fresh.write_text(json.dumps({**_read(store), name: kept}, indent=1))
        fresh.replace(store)
    except OSError:
        return
