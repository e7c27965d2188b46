"""The text of a run file: found by a path or an example's name, decoded and parsed, or refused in a sentence."""

from __future__ import annotations

import codecs
import os
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from headway.core.errors import ConfigError, nearest
from headway.observe.run_folder import CONFIG, IDENTITY

DATA = (".npz", ".csv", ".tsv", ".parquet")
OTHER = {".yaml": "YAML", ".yml": "YAML", ".json": "JSON", ".ini": "INI", ".cfg": "INI", ".py": "Python"}
MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def examples() -> dict[str, str]:
    """The packaged examples, each with the first line of its comment."""
    folder = resources.files("headway") / "examples"
    summaries = {}
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml"):
            summaries[file.name.removesuffix(".toml")] = file.read_text().splitlines()[0].lstrip("# ")
    return summaries


def read_runfile(name: str) -> tuple[dict[str, Any], Path, str]:
    """The tables, the folder that relative paths start from, and a name for the run.

    Raises:
        ConfigError: if there is no such file or example, or it is no TOML.
    """
    path = Path(name)
    if not name.endswith(".toml") and os.sep not in name and not path.exists():
        if path.suffix.lower() in (*OTHER, *DATA):
            raise ConfigError(f"the run file {name} cannot be read: No such file or directory.")
        if name not in examples():
            raise ConfigError(
                f"there is no packaged example named {name!r}{nearest(name, examples())}; a run file of your own is "
                "named with its ending, .toml."
            )
    if name in examples() and not path.is_file():
        text, folder, title = (resources.files("headway") / "examples" / f"{name}.toml").read_text(), Path.cwd(), name
    else:
        text, folder, title = _text(path, name), path.resolve().parent, path.stem
    try:
        return tomllib.loads(text), folder, plain_name(title)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_not_toml(name, path, text, error)) from error


def plain_name(title: str) -> str:
    """A file's name as a run may be named: whatever is not a letter, a digit or one of _ . + - becomes _.

    >>> plain_name("my run (final)"), plain_name("-frozen"), plain_name("#!")
    ('my_run_final', 'frozen', 'run')
    """
    return re.sub(r"[^\w.+-]+", "_", title).strip("_").lstrip(".+-_") or "run"


def _text(path: Path, name: str) -> str:
    """The decoded text.

    Raises:
        ConfigError: what lies there instead of a run file, and what to do with it.
    """
    if path.is_dir():
        raise ConfigError(_folder_sentence(path))
    if path.suffix.lower() in DATA and path.exists():
        raise ConfigError(
            f"{name} is a file of data and no run file: `headway init --data {name}` writes a run file for it."
        )
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the run file {name} cannot be read: {error.strerror or error}.") from error
    for mark, encoding in MARKS.items():
        if raw.startswith(mark):
            raise ConfigError(f"the run file {name} is {encoding}, but TOML is UTF-8: save it as UTF-8.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"the run file {name} cannot be read: byte {error.object[error.start]:#04x} in line {line} is not UTF-8; "
            "save it as UTF-8."
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _folder_sentence(path: Path) -> str:
    if (path / IDENTITY).is_file():
        again = f", and `headway run {path / CONFIG}` starts it anew" if (path / CONFIG).is_file() else ""
        return f"{path} is the folder of a run and no run file: `headway resume {path}` goes on with it{again}."
    runfiles = sorted(each.name for each in path.glob("*.toml"))
    there = f"; it holds {', '.join(runfiles[:3])}" if runfiles else ""
    return f"{path} is a folder, but a run file (.toml) is needed{there}."


def _not_toml(name: str, path: Path, text: str, error: tomllib.TOMLDecodeError) -> str:
    """Why a text cannot be parsed."""
    kind = OTHER.get(path.suffix.lower()) or ("JSON" if text.lstrip().startswith("{") else None)
    if kind is not None:
        example = next(iter(examples()))
        return f"a run file is TOML, and {name} is {kind}: `headway init` writes one, and {example!r} is an example."
    words, where = str(error), ""
    if place := re.search(r" \(at (line \d+), column \d+\)", words):
        words, where = words.replace(place[0], ""), f" in {place[1]}"
    if twice := re.match(r"Cannot declare \((.*?),?\) twice", words):
        keys = ".".join(re.findall(r"'([^']*)'", twice[1]))
        return f"the run file {name} has the table [{keys}] twice, the second time{where}: put both in one."
    if words.startswith("Cannot overwrite a value"):
        words = "a key is given twice"
    value = re.search(r"line (\d+)", where)
    line = text.splitlines()[int(value[1]) - 1].strip() if value and int(value[1]) <= len(text.splitlines()) else ""
    quoted = f' ("{line}")' if line and len(line) < 80 else ""
    return f"the run file {name} is not valid TOML{where}{quoted}: {words[0].lower()}{words[1:]}."
