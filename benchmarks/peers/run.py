"""Headway beside its peers: seconds a round, on the same data, the same cohorts and the same batches.

    python benchmarks/peers/run.py [--rounds 5] [--only plain headway:lanes=20 ...] [--workloads W1 W2 W3]
        [--cores 2] [--patience 300] [--device cpu|cuda] [--envs FOLDER] [--out FILE]

A contender is a script on_NAME.py, and options after a colon; several with other options may take part.  Each has a
process and, but for Headway and the plain loop, an environment of its own, which setup.sh makes in FOLDER
($HEADWAY_PEERS, ~/.cache/headway-peers); one without its environment is left out, and a line says so.  The first round
warms up; then the contenders take turns, round by round.  All end with the same weights but for rounding (FedJAX on W2
excepted, see on_fedjax.py), and the table says how far from the plain loop's.

With --device cuda the contenders are those that train on a GPU; Flower and BlazeFL are not among them, since what a
client does there is written by their user, here for processors.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import WORKLOADS, Problem, Workload, cores
from on_headway import SEED, algorithm_of, name_of

from headway.client_state.store import TRAINER
from headway.numerics.keys import Key

HERE = Path(__file__).parent
OURS = ("headway", "plain")  # they run in the environment of this script
CONTENDERS = (
    "plain",
    "plain:processes=2",
    "headway",
    "headway:lanes=auto",
    "headway:workers=2,lanes=auto",
    "flower",
    "pfl",
    "fedjax",
    "jax",
    "jax:lanes=100",
    "blazefl",
    "blazefl:mode=process",
)
ON_GPU = (
    "plain:device=cuda",
    "headway:device=cuda",
    "headway:device=cuda,lanes=auto",
    "headway:device=cuda,lanes=auto,precision=tf32",
    "headway:device=cuda,lanes=auto,precision=bfloat16",
    "pfl",
    "fedjax",
    "jax",
    "jax:lanes=100",
)


class Failed(Exception):
    """A contender stopped, or took too long; with the end of what it printed."""


@dataclass
class Contender:
    """A contender at work on a workload, and what was measured of it.

    label: in the names of its files, where two have the same spec.  environment: variables that it is started with,
    besides those of this process.
    """

    spec: str
    python: Path
    folder: Path
    patience: float  # seconds
    seconds: list[float] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    first: float = 0.0  # seconds from its start to the end of its first round
    peak: int = 0  # bytes, of all its processes
    weights: np.ndarray | None = None
    label: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, workload: Workload, cpus: Sequence[int]) -> None:
        """Starts it, and lets it run its first round."""
        name, _, options = self.spec.partition(":")
        self.file = self.folder / f"{self.label or self.spec.replace('/', '_')}.{workload.name}.npy"
        self.log = self.file.with_suffix(".log")
        command = [self.python, HERE / f"on_{name}.py", workload.name, self.folder, self.file, "--options", options]
        inherited = {k: v for k, v in os.environ.items() if name in OURS or k != "PYTHONPATH"}
        inherited.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU is for all contenders
        begun = time.perf_counter()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=inherited | self.environment,
                preexec_fn=lambda: os.sched_setaffinity(0, cpus),
            )
        self.versions = self._answer()["ready"]
        self.round()
        self.first = time.perf_counter() - begun

    def round(self) -> float:
        """Runs a round; the seconds it took, as the contender measures them."""
        seconds = float(self._ask("round")["seconds"])
        self.peak = max(self.peak, sum(map(_peak, _family(self.process.pid))))
        return seconds

    def finish(self) -> None:
        """Reads the weights that it ended with, and waits for its end."""
        self._ask("finish")
        self.weights = np.load(self.file)
        self.process.communicate(timeout=120)

    def stop(self) -> None:
        """Ends it, if it still runs."""
        self.process.terminate()

    def _ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], self.patience)[0]:
            raise Failed(f"{self.spec} gave no answer in {self.patience:.0f} seconds")
        line = self.process.stdout.readline()
        if not line:
            end = [text for text in self.log.read_text(errors="replace").splitlines() if text.strip()][-3:]
            raise Failed(f"{self.spec} stopped: {' | '.join(end)}")
        return json.loads(line)


def _family(process: int) -> Iterator[int]:
    """A process and all that descend from it, where /proc tells."""
    yield process
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        if parent == process:
            yield from _family(int(stat.parent.name))


def _peak(process: int) -> int:
    """The most memory that a process has had, in bytes, with what it maps of the data; 0 where /proc does not tell."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def make_data(workload: Workload, folder: Path, rounds: int) -> None:
    """Writes the data that `Problem` reads; the examples once, the cohorts and orders of Headway's run each time."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(SEED)
    rows = workload.clients * workload.examples
    if not (folder / "start.npy").exists():
        np.save(folder / "inputs.npy", generator.standard_normal((rows, *workload.shape), dtype=np.float32))
        np.save(folder / "targets.npy", generator.integers(0, 10, rows))
        parts = []
        for shape in workload.weights:
            bound = float(np.prod(shape[1:])) ** -0.5 if len(shape) > 1 else 0.0
            parts.append(generator.uniform(-bound, bound, int(np.prod(shape))).astype(np.float32))
        np.save(folder / "start.npy", np.concatenate(parts))
    algorithm, key = algorithm_of(workload), Key.root(SEED)
    names = [name_of(client) for client in range(workload.clients)]
    cohorts = [algorithm.cohort(names, number, key) for number in range(rounds)]
    counts = torch.full((workload.cohort,), workload.examples)
    orders = [
        key.for_each("client", number, names=cohort).derive(TRAINER).derive("epoch", 0).permutations(counts).numpy()
        for number, cohort in enumerate(cohorts)
    ]
    np.save(folder / "cohorts.npy", np.array(cohorts).astype(np.int64))
    np.save(folder / "orders.npy", np.array(orders))


def compare(
    workload: Workload, contenders: Sequence[Contender], folder: Path, rounds: int, cpus: Sequence[int]
) -> list[Contender]:
    """Lets contenders take turns for some rounds; those that came to the end."""
    make_data(workload, folder / workload.name, rounds + 1)
    running: list[Contender] = []

    def each(act: str, *arguments: Any) -> Iterator[tuple[Contender, Any]]:
        for contender in list(running):
            try:
                yield contender, getattr(contender, act)(*arguments)
            except (Failed, OSError, subprocess.TimeoutExpired) as trouble:
                print(trouble, file=sys.stderr)
                contender.stop()
                running.remove(contender)

    running.extend(contenders)
    for contender, _ in each("start", workload, cpus):
        print(f"{workload.name} {contender.spec}: first round {contender.first:.2f} s after its start", file=sys.stderr)
    for number in range(rounds):
        for contender, seconds in each("round"):
            contender.seconds.append(seconds)
            print(f"{workload.name} round {number + 1} {contender.spec}: {seconds:.4f} s", file=sys.stderr)
    for _ in each("finish"):
        pass
    return running


def ratio(one: Contender, other: Contender) -> float:
    """The median of the ratios of their rounds."""
    return statistics.median(a / b for a, b in zip(one.seconds, other.seconds, strict=True))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; its first column is text, the others numbers."""
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table(workload: Workload, done: Sequence[Contender], start: np.ndarray) -> str:
    """What was measured on one workload, as Markdown."""
    base = next((each for each in done if each.spec in ("plain", "plain:device=cuda")), done[0])
    assert base.weights is not None
    rows = []
    for each in done:
        difference = np.abs(each.weights - base.weights).max()
        rows.append(
            [
                f"`{each.spec}`",
                f"{statistics.median(each.seconds):.3f}",
                f"{min(each.seconds):.3f} to {max(each.seconds):.3f}",
                f"{workload.cohort / statistics.median(each.seconds):,.0f}",
                f"{ratio(each, base):.2f}",
                f"{each.first:.1f}",
                f"{each.peak / 2**20:,.0f}",
                f"{difference:.0e}" if difference else "0",
            ]
        )
    header = (
        "contender",
        "seconds a round",
        "from, to",
        "clients a second",
        f"times `{base.spec}`",
        "first round after, s",
        "peak memory, MB",
        "largest difference of a weight",
    )
    moved = np.abs(base.weights - start).max()
    return f"**{workload.name}**: {workload.text}. The largest change of a weight in the run is {moved:.2g}.\n\n" + (
        markdown(header, rows)
    )


def machine(cpus: Sequence[int]) -> str:
    """The machine in a sentence."""
    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return (
        f"{gpu}{models[0] if models else platform.machine()}, {len(cpus)} of {os.cpu_count()} cores used, "
        f"{memory:.0f} GB, {platform.system()}, Python {platform.python_version()}; load average before the start "
        f"{os.getloadavg()[0]:.1f}"
    )


def present(specs: Sequence[str], options: argparse.Namespace) -> list[Contender]:
    """The contenders whose environment is there; for the others a line is printed."""
    found = []
    for spec in specs:
        name = spec.partition(":")[0]
        python = Path(sys.executable) if name in OURS else options.envs / name / "bin" / "python"
        if python.exists():
            found.append(Contender(spec, python, options.envs / "data", options.patience))
        else:
            print(f"{spec} is left out: no {python}; make it with setup.sh {name}", file=sys.stderr)
    return found


def parser_of(text: str | None, workloads: Sequence[str]) -> argparse.ArgumentParser:
    """The options that every comparison takes."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="after the first, which warms up")
    parser.add_argument("--workloads", nargs="+", default=list(workloads), choices=WORKLOADS)
    parser.add_argument("--cores", type=int, default=cores(), help="how many each contender may use")
    parser.add_argument("--patience", type=float, default=300, help="seconds after which a round is given up")
    home = os.environ.get("HEADWAY_PEERS", str(Path.home() / ".cache" / "headway-peers"))
    parser.add_argument("--envs", type=Path, default=Path(home), help="the folder of the environments and the data")
    parser.add_argument("--out", type=Path, help="the file that the Markdown is written to, besides being printed")
    return parser


def main() -> None:
    parser = parser_of(__doc__, list(WORKLOADS))
    parser.add_argument("--only", nargs="+", metavar="NAME[:OPTION=VALUE,...]")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="which contenders, if none is named")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    options.only = options.only or (ON_GPU if on_gpu else CONTENDERS)
    options.out = options.out or Path("docs") / ("benchmarks-peers-cuda.md" if on_gpu else "benchmarks-peers.md")
    cpus = sorted(os.sched_getaffinity(0))[: options.cores]
    folder = options.envs / "data"
    parts = [f"Measured on {machine(cpus)}. Median of {options.rounds} rounds in turn, after one that warms up."]
    versions: dict[str, str] = {}
    for name in options.workloads:
        workload = WORKLOADS[name]
        done = compare(workload, present(options.only, options), folder, options.rounds, cpus)
        if done:
            parts.append(table(workload, done, Problem(workload, folder / name).start))
        versions |= {package: version for each in done for package, version in each.versions.items()}
    parts.append("Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) + ".")
    text = "\n\n".join(parts) + "\n"
    print(text)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)


if __name__ == "__main__":
    main()
