"""The planner: how many clients side by side, on how many threads, compiled or not, end the run soonest, measured."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from headway.engines.autotune.execution_plan import ExecutionPlan, PlanConstraints
from headway.engines.executors.batch_result import OutOfDeviceMemory
from headway.engines.executors.client_setup import ClientSetup
from headway.engines.group_runner import GroupRunner
from headway.observe.run_folder import write_atomically
from headway.vectorized.compiled_gradients import NotCompiled

Tried = tuple[ExecutionPlan, int]  # a plan, and torch's threads

COARSE = (2, 8, 32, 128, 512)  # lanes to try
BUDGET_S = 20.0  # the most that measuring takes, but for the first plan and for what compiling saves
LEAST_BUDGET_S = 4.0  # in which small models are measured, however short the run
SHARE = 0.1  # of the run's expected length, one client at a time, that measuring may take
REPEATS = 3
LONG_S = 1.0  # after so long nothing is repeated
QUICK_S = 0.1  # what takes less is repeated until it has taken so long
MOST = 1024
CLOSE = 1.05  # times the best: the simpler plan is preferred
HOPELESS = 3.0  # times the best, in a first attempt: no other follows
LONG_RUN_S = 60.0  # of training that is left, by the best plan so far: below it nothing is compiled
HOPED = 2.0  # times as fast as before is what compiling makes a client at most
FIRST_S = 15.0  # what compiling takes on a machine that has not yet compiled
PART_S = 1.0  # more for each layer and size of batches


@dataclass(frozen=True, slots=True)
class MeasuredPlan:
    """A plan with its threads: part of what fixes a run's bits.

    plan: how clients are trained.  threads: of torch, in each process.
    seconds: what one client took, by this plan, and one at a time on one thread; `None` if nothing was measured.
    skipped: how many other plans were not measured, since the time budget was spent.
    """

    plan: ExecutionPlan
    threads: int
    seconds: tuple[float, float | None] | None = None
    remembered: bool = False
    skipped: int = 0

    @property
    def summary(self) -> str:
        """The plan in a line."""
        text = f"{self.plan.summary}, {'1 thread' if self.threads == 1 else f'{self.threads} threads'}"
        if self.seconds is None:
            return text
        chosen, alone = self.seconds
        when = "as measured before" if self.remembered else "measured"
        reference = ""
        if alone is not None and (self.plan, self.threads) != (ExecutionPlan(), 1):
            reference = f", one at a time on one thread {1e3 * alone:.3g} ms"
        skipped = f"; {self.skipped} other plans would have taken too long to measure" if self.skipped else ""
        return f"{text}: {1e3 * chosen:.3g} ms a client{reference} ({when}{skipped})"


def make_plan(
    groups: GroupRunner,
    cohort: int,
    most_threads: int,
    constraints: PlanConstraints,
    store: Path | None,
    clients: int = 0,
    budget_s: float = BUDGET_S,
) -> MeasuredPlan:
    """The fastest plan for the runner's job, measured on its own model and clients, or remembered.

    cohort: how many clients a process trains in a round, which limits the lanes.  most_threads: that torch may use.
    store: a file in which plans are remembered, by model, shapes, machine and versions; `None` remembers nothing.
    clients: how many the process trains in the whole run, which decides whether compiling pays.  budget_s: the most
        seconds that measuring takes, whatever the machine, beyond the first plan; less in a short run.

    Nothing that is measured changes a model, a memory or a random number of the run.
    """
    name = _fingerprint(groups.execution.setup, cohort, most_threads, constraints, clients)
    if (known := _stored_plan(store, name)) is not None:
        return known
    try:
        trial = _Trial(groups, cohort, budget_s)
        chosen = _measure(trial, cohort, most_threads, constraints, clients)
    except (Exception, SystemExit):  # whatever a model may raise: the run will raise it, with client and stage
        return MeasuredPlan(ExecutionPlan(channels_last=bool(constraints.channels_last)), most_threads)
    _store_plan(store, name, chosen)
    return chosen


def _measure(trial: _Trial, cohort: int, most_threads: int, constraints: PlanConstraints, clients: int) -> MeasuredPlan:
    """One at a time first, on one thread and on all, and channels last; then batches, coarsely, and around the best; of
    these the best compiled."""
    execution, alone = trial.execution, ExecutionPlan(channels_last=bool(constraints.channels_last))
    trial.measure(alone, most_threads)
    trial.allow(SHARE * clients * trial.found[alone, most_threads])
    trial.attempt(alone, 1)
    if constraints.channels_last is None and execution.has_conv2d:
        trial.attempt(replace(alone, channels_last=True), trial.best()[1])
    if execution.batched.reason is None:
        kinds = (
            (True, False)
            if execution.low_rank.has_non_linear_params and constraints.low_rank is None
            else (constraints.low_rank,)
        )
        last = trial.best()[0].channels_last
        for kind in kinds:
            _try_batches(trial, min(cohort, MOST), replace(alone, low_rank=kind, channels_last=last and bool(kind)))
    for lowered in (True, False):  # the best batches of each kind, whose large products may be faster on all threads
        if batches := [
            key for key in trial.found if key[0].lanes > 1 and execution.plan_uses_low_rank(key[0]) == lowered
        ]:
            trial.attempt(min(batches, key=lambda key: trial.found[key])[0], most_threads)
    best = trial.best()
    chosen = _compiled(trial, best, clients) if constraints.compiled is None else best
    if constraints.compiled:  # where that is impossible, the engine's summary names the reason
        trial.compile(best, math.inf)
        chosen = replace(best[0], compiled=True), best[1]
    seconds = trial.found.get(chosen, trial.found[best]), trial.found.get((alone, 1))
    return MeasuredPlan(*chosen, seconds, skipped=trial.skipped)


def _try_batches(trial: _Trial, widest: int, plan: ExecutionPlan) -> None:
    """Batches of this kind on one thread; how many are best depends little on the threads."""
    for width in sorted({widest, *(width for width in COARSE if width < widest)}):
        trial.attempt(replace(plan, lanes=width), 1)
    best = trial.best()[0].lanes
    for width in (best // 2, 2 * best):
        if 1 < width <= widest and best > 1:
            trial.attempt(replace(plan, lanes=width), 1)


def _compiled(trial: _Trial, best: Tried, clients: int) -> Tried:
    """The best plan so far; or, compiled, one with which the whole run ends sooner, compiling included.

    Tried are one client at a time and the best batches that have weights of their own, if the time of compiling may be
    less than T (s - t / HOPED), for T clients in the run, s seconds a client in the best plan and t in the one to
    compile.
    """
    execution, left = trial.execution, clients * trial.found[best]
    if left < LONG_RUN_S:
        return best
    try:
        widths = len(execution.compiler.widths)
    except NotCompiled:
        return best
    layers = sum(1 for part in execution.setup.flat_module.module.modules() if not any(part.children()))
    own = {key: s for key, s in trial.found.items() if key[0].lanes == 1 or not execution.plan_uses_low_rank(key[0])}
    kinds = ([key for key in own if (key[0].lanes > 1) == several] for several in (False, True))
    for eager in sorted((min(keys, key=lambda key: own[key]) for keys in kinds if keys), key=lambda key: own[key]):
        saved = left - clients * own[eager] / HOPED
        expected = FIRST_S + PART_S * layers * (widths if eager[0].lanes == 1 else 1)
        if saved > expected and (took := trial.compile(eager, saved)) is not None:
            compiled = replace(eager[0], compiled=True), eager[1]
            if (total := took + clients * trial.found[compiled]) < left:
                best, left = compiled, total
    return best


class _Trial:
    """Trains clients of the run from its first model by several plans, and discards the results.

    found: the seconds of one client, by plan and threads.  skipped: how many plans there was no time for.
    """

    def __init__(self, groups: GroupRunner, cohort: int, budget_s: float = BUDGET_S) -> None:
        self.groups, self.execution = groups, groups.execution
        names = groups.setup.job.data.clients[:MOST]
        self.ask = groups.setup.first_ask(names[: max(cohort, 1)])
        self.found: dict[Tried, float] = {}
        self.begun, self.budget_s, self.skipped = time.perf_counter(), budget_s, 0
        self.deadline = self.begun + min(budget_s, LEAST_BUDGET_S)

    def allow(self, seconds: float) -> None:
        """Allows so many seconds in all, within the budget."""
        self.deadline = self.begun + min(self.budget_s, max(LEAST_BUDGET_S, seconds))

    def best(self) -> Tried:
        """The fastest so far; of those that are nearly as fast, the simplest."""
        close = CLOSE * min(self.found.values())
        fast = (key for key, seconds in self.found.items() if seconds <= close)
        return min(fast, key=lambda key: (key[0].lanes, key[0].channels_last, key[1]))

    def attempt(self, plan: ExecutionPlan, threads: int) -> None:
        """Measures a plan, if there is time; a plan by which the model fails is left out."""
        once = plan.lanes * min(self.found.values())
        expected = once if once > LONG_S else once * (REPEATS + 1)
        if (plan, threads) in self.found:
            return
        if time.perf_counter() + expected >= self.deadline:
            self.skipped += 1
        else:
            with suppress(Exception):  # such as a model that counts on how its tensors lie in memory
                self.measure(plan, threads)

    def compile(self, eager: Tried, most: float) -> float | None:
        """Finds the seconds of one client by an earlier plan, compiled; the seconds of compiling, or `None`
        if it cannot be or takes longer than the most."""
        plan, threads = replace(eager[0], compiled=True), eager[1]
        begun = time.perf_counter()
        compiler = self.execution.compiler
        with suppress(Exception), threads_at(threads):
            compiler.until = begun + most
            self.execution.use(plan)
            compiler.until, took = math.inf, time.perf_counter() - begun
            if self.execution.plan.compiled:
                self.measure(plan, threads)
                return took if compiler.trouble is None else None
        return None

    def measure(self, plan: ExecutionPlan, threads: int) -> None:
        """Finds the seconds of one client."""
        with threads_at(threads):
            self.found[plan, threads] = self.seconds(plan)

    def seconds(self, plan: ExecutionPlan) -> float:
        """The seconds of one client by this plan, infinite where a batch has no room.

        The first time does not count, unless it is long or hopeless.
        """
        self.execution.use(plan)
        clients, device = self.ask.cohort[: plan.lanes], self.groups.setup.device
        spent: list[float] = []
        before = device.rng_state()
        hopeless = HOPELESS * min(self.found.values(), default=math.inf)
        try:
            while not spent or (spent[0] <= hopeless and self._unsure(len(spent), sum(spent) * len(clients))):
                device.wait()
                begun = time.perf_counter()
                self.groups.rehearse(self.ask, clients)
                device.wait()
                spent.append((time.perf_counter() - begun) / len(clients))
        except OutOfDeviceMemory:
            return math.inf
        finally:
            device.set_rng_state(before)
        return statistics.median(spent[1:] or spent)

    def _unsure(self, times: int, seconds: float) -> bool:
        """Whether to repeat what has been done so many times, in so many seconds."""
        return seconds <= LONG_S and (times <= REPEATS or seconds < QUICK_S)


@contextmanager
def threads_at(count: int) -> Iterator[None]:
    """Torch with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fingerprint(setup: ClientSetup, cohort: int, most_threads: int, constraints: PlanConstraints, clients: int) -> str:
    """A digest of what a plan depends on.

    That is the model, the algorithm, the examples' shape, the machine and the versions; and, where that may decide, the
    length of the run, as a power of two.
    """
    job = setup.job
    parts = [
        torch.__version__,
        platform.machine(),
        _processor(),
        os.cpu_count(),
        setup.device.name,
        most_threads,
        cohort,
        constraints,
        setup.flat_module.layout.fingerprint,
        str(setup.flat_module.module),
        repr(job.algorithm.chain),
        repr(job.algorithm.trainer),
        job.data.input_shape,
        float(job.data.train_sizes.median()),
        setup.measure,
        clients.bit_length() if constraints.compiled is None else 0,
    ]
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.processor())


def default_store() -> Path:
    """The file of stored plans: `$XDG_CACHE_HOME/headway/plans.json`, or the same under `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home or Path.home() / ".cache") / "headway" / "plans.json"


def _read(store: Path) -> dict[str, object]:
    """The stored plans; none, if the file is absent or damaged."""
    try:
        known = json.loads(store.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _stored_plan(store: Path | None, name: str) -> MeasuredPlan | None:
    found = None if store is None else _read(store).get(name)
    if not isinstance(found, dict):
        return None
    try:
        chosen, alone = found["seconds"]
        return MeasuredPlan(
            ExecutionPlan.of(found["way"]),
            int(found["threads"]),
            (float(chosen), None if alone is None else float(alone)),
            remembered=True,
            skipped=int(found.get("skipped", 0)),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _store_plan(store: Path | None, name: str, chosen: MeasuredPlan) -> None:
    """Adds the plan to the stored ones; a folder that cannot be written is no reason to stop a run."""
    if store is None:
        return
    kept: dict[str, object] = {"way": chosen.plan.pinned_settings, "threads": chosen.threads, "seconds": chosen.seconds}
    if chosen.skipped:
        kept["skipped"] = chosen.skipped
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(store, json.dumps({**_read(store), name: kept}, indent=1).encode())
    except OSError:
        return
