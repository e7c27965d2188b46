"""Every command of the README and of the pages in docs/ runs, in order, in one folder for each page.

A page shows its commands in fenced blocks that begin with ```console; nothing has to be registered here for a new one.
`FILES` has what a page takes for granted, such as a table of the reader's own.  So that it takes minutes and not hours,

- `headway run` trains for at most `ROUNDS` rounds, `headway resume` for one more, `headway compare` has at most `SEEDS`
  seeds as well, and as few rounds;
- docs/results.md and docs/speed.md run in `make soak`;
- `headway audit` makes its first attack alone, and may succeed;
- the tutorial's commands run in test_guide.py, between its blocks of Python, and those of docs/deploy.md, of which some
  go on while others run, in federation/test_deploy_page.py;
- Fashion-MNIST is a few invented pictures, and so are the archives that docs/results.md begins with;
- of handwritten digits there is one of three;
- scripts in benchmarks/ are small (`HEADWAY_SMALL=1`).

`ELSEWHERE` are commands that need what a test cannot have, with the reason.
"""

import itertools
import re
import shlex
import shutil
import struct
from pathlib import Path

import forks
import numpy as np
import pytest
import torch

from headway.data.sources import images, packaged

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]
IN_GUIDE = ["docs/tutorial.md", "docs/deploy.md"]
ROUNDS, SEEDS = 1, 1
TABLE = ROOT / "src/headway/data/files/heart_disease_uci.csv"
ELSEWHERE = {
    r"^make ": "test_the_makefile_has_every_target_that_is_named looks for the target",
    r"^source ": "a shell of its own",
    r"^ray start": "several machines",
    r"--address 10\.": "several machines",
    r"peers/setup\.sh": "downloads the packages of other systems",
    r"peers/run\.py .*(cuda|jax)": "a GPU, or packages of other systems",
}
GPU = "--device cuda"
SOAK = {"docs/results.md", "docs/speed.md"}  # dozens of comparisons; plans that are measured, and compiled steps
VARIABLE = re.compile(r"[A-Z_]+=\S*")
MORE = {  # for pages whose data are invented and few
    "phones.toml": ["--set", 'data.partition={kind="iid"}'],
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[list[str]]:
    """The words of each command, without comments, and without the variables of its environment before it."""
    lines = "".join(blocks(page, "console")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [list(itertools.dropwhile(VARIABLE.fullmatch, command)) for command in words if command]


def reduced(words: list[str]) -> list[str]:
    """The command with fewer rounds and seeds."""
    most = {"run": {"--rounds": ROUNDS}, "resume": {"--rounds": ROUNDS + 1}}
    most["compare"] = {"--rounds": ROUNDS, "--seeds": SEEDS}
    words = list(words)
    for option, count in most.get(words[1], {}).items():
        if option in words:
            place = words.index(option) + 1
            words[place] = str(min(int(words[place]), count))
        else:
            words += [option, str(count)]
    if words[1] == "audit" and "--attacks" not in words:
        words += ["--attacks", "dense"]
    if words[1] == "compare":  # in this process, where Fashion-MNIST is the invented one
        words += ["--workers", "1"]
    return words + [more for name, options in MORE.items() if name in " ".join(words) for more in options]


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def pictures(folder: Path) -> Path:
    """A few pictures in the files of MNIST and Fashion-MNIST."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for part, count in (("train", 2000), ("t10k", 200)):
        labels = (np.arange(count) % 10).astype("uint8")
        grey = (random.integers(0, 128, (count, 28, 28)) + 12 * labels[:, None, None]).astype("uint8")
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(grey))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


def patients(folder: Path, page: str) -> None:
    """patients.csv, with a column for the client that is named as the page names it."""
    column = re.search(r"--client-column (\w+)", (ROOT / page).read_text()).group(1)
    (folder / "patients.csv").write_text(TABLE.read_text().replace("dataset", column, 1))


def archives(folder: Path, page: str) -> None:
    """The two archives that are not distributed."""
    from io import BytesIO

    from PIL import Image

    random = np.random.default_rng(0)
    held = []
    for number in range(300):
        buffer = BytesIO()
        grey = random.integers(0, 99, (64, 64, 3)) + 50 * (number % 3)
        Image.fromarray(grey.astype("uint8")).save(buffer, "JPEG")
        held.append(buffer.getvalue())
    np.savez(
        folder / "lc25000_lung_64.npz",
        jpeg=np.frombuffer(b"".join(held), np.uint8),
        len=np.array([len(each) for each in held]),
        y=np.arange(300) % 3,
        classes=np.array(["aca", "n", "scc"]),
    )
    arrays = {}
    for part, count in (("train", 1200), ("test", 300)):
        arrays[f"y_{part}"] = np.arange(count) % 28
        arrays[f"w_{part}"] = np.arange(count) % 60
        arrays[f"x_{part}"] = random.integers(0, 255, (count, 32, 32)).astype("uint8")
    np.savez(folder / "ahcd_60writers.npz", **arrays)


def cost(folder: Path, page: str) -> None:
    (shown,) = [block for block in blocks(page, "toml") if "[methods.first-five]" in block]
    (folder / "cost.toml").write_text(shown)


def run_files(folder: Path, page: str) -> None:
    """The blocks of TOML that begin with the name of their file."""
    for block in blocks(page, "toml"):
        if named := re.match(r"# ([\w-]+\.toml)\n", block):
            (folder / named[1]).write_text(block)


def modules(folder: Path, page: str) -> None:
    """The blocks of Python that begin with the name of their file."""
    for block in blocks(page, "python"):
        if named := re.match(r"# (\w+\.py)\n", block):
            (folder / named[1]).write_text(block)


FILES = {
    "README.md": [patients],
    "docs/clients.md": [cost],
    "docs/noise.md": [run_files],
    "docs/own_code.md": [modules],
    "docs/privacy.md": [run_files],
    "docs/results.md": [archives],
}


def elsewhere(words: list[str]) -> bool:
    return any(re.search(pattern, " ".join(words)) for pattern in ELSEWHERE)


def script(words: list[str], folder: Path) -> tuple[int, str]:
    """Runs a script of benchmarks/ in a process of its own."""
    words = list(words)
    if "peers/run.py" in words[1] or "stages_cost.py" in words[1]:
        words += ["--envs", str(folder / "envs"), "--out", str(folder / "out.md"), "--rounds", "1", "--workloads", "W3"]
        words += [] if "--only" in words or "run.py" not in words[1] else ["--only", "plain", "headway"]
    return forks.run_benchmark(folder / words[1], words[2:], folder)


SHOWN = [page for page in PAGES if commands(page) and page not in IN_GUIDE]


@pytest.mark.parametrize("page", [pytest.param(page, marks=[pytest.mark.soak] * (page in SOAK)) for page in SHOWN])
def test_every_command_runs_in_order(page, headway, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(images, "FASHION_MNIST", pictures(tmp_path_factory.mktemp("debian") / "fashion-mnist"))
    read = np.loadtxt
    monkeypatch.setattr(packaged.np, "loadtxt", lambda lines, **more: read(itertools.islice(lines, 0, None, 3), **more))
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks", ignore=shutil.ignore_patterns("__pycache__", "data"))
    for make in FILES.get(page, ()):
        make(tmp_path, page)
    wrong = []
    for words in commands(page):
        if elsewhere(words):
            continue
        assert words[0] in ("headway", "python"), f"a command of {page} that no test can run: {shlex.join(words)}"
        if words[0] == "python":
            code, out = script(words, tmp_path)
        else:
            words = reduced(words)
            code, out, err = headway(*words[1:])
            out += err
        refused = GPU in " ".join(words) and not torch.cuda.is_available()
        if refused and code == 1 and "GPU" in out and "Traceback" not in out:
            continue
        if words[:2] == ["headway", "audit"] and code == 1 and "ATTACK SUCCEEDED" in out:
            continue  # its exit code says so
        if code:
            wrong.append(f"$ {shlex.join(words)}\n{out}")
    assert not wrong, "\n\n".join(wrong)


def test_the_makefile_has_every_target_that_is_named():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[1] for page in PAGES for words in commands(page) if words[0] == "make"}
    named |= {name for page in PAGES for name in re.findall(r"`make ([\w-]+)`", (ROOT / page).read_text())}
    assert {"demo", "test", "soak", "bench"} <= named <= targets
