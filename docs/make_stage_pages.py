"""Writes one page per registered stage into docs/stages, from its docstring and from what the code knows.

    python docs/make_stage_pages.py

`tests/test_stage_pages.py` checks that the pages in the repository are the ones that this writes.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Sequence
from pathlib import Path

import torch

from headway import recipes
from headway.core.errors import ChainRefused
from headway.core.flow import EngineFacts, Flow, PrivacyEvent, SamplerFacts, TrainerFacts, VectorSpec
from headway.core.registry import brief, to_numbers
from headway.core.stage import Aggregator, Place, Stage, stages
from headway.observe.text import to_toml
from headway.training.measurements import MEASUREMENTS

FOLDER = Path(__file__).parent / "stages"
SOURCE = Path(__file__).parent.parent / "src"
HOOKS = ("connect", "init", "remember", "broadcast", "step", "combine", "send", "decode", "release", "receive")
OF_AGGREGATORS = ("lift", "finish", "reduce")
HEADINGS = ("Formula", "Shapes", "Units", "Raises", "Reference", "Differs")
NEEDED = {
    "steps": "single local steps from the trainer",
    "initial_loss": "the loss at the start of the round from the trainer",
    "initial_gradient": "the gradient at the start of the round from the trainer",
}


def ours() -> dict[str, type[Stage]]:
    """The stages of this package: what other packages register has its pages there."""
    known = {name: stages.get(name) for name in stages.names()}
    return {name: kind for name, kind in known.items() if kind.__module__.startswith("headway.")}


def page(kind: type[Stage]) -> str:
    """The page of one stage."""
    summary, body, example = _docstring(kind)
    parts = [
        f"# {kind.__name__}",
        summary,
        *body,
        "## Parameters",
        _parameters(kind),
        "## In a run file",
        _toml(kind),
        "## In Python",
        f"```pycon\n{example}\n```" if example else "No example.",
        "## What the code knows",
        _facts(kind),
        "---",
        f"From [`{_place_of(kind)}`](../../src/{_place_of(kind)}) by `docs/make_stage_pages.py`; do not edit.",
    ]
    return "\n\n".join(parts) + "\n"


def index() -> str:
    """The table of all stages, in the order of a chain."""
    rows = []
    for name, kind in sorted(ours().items(), key=lambda item: (item[1].place, item[0])):
        summary = _docstring(kind)[0].replace("|", "\\|")
        rows.append(f"| [{name}]({name}.md) | {kind.place.summary} | {summary} |")
    return "\n".join(
        [
            "# The stages",
            "",
            "In the order in which a chain lists them, which is the way an update travels: out of each local step, out",
            "of the client, into one aggregator, into the new model.  `headway explain FILE` shows a whole chain.",
            "",
            "| stage | its place | what it does |",
            "|---|---|---|",
            *rows,
            "",
            "Written by `docs/make_stage_pages.py` from the docstrings; do not edit.",
            "",
        ]
    )


def _docstring(kind: type[Stage]) -> tuple[str, list[str], str]:
    """The first line, the paragraphs as markdown, and the doctest."""
    lines = (inspect.getdoc(kind) or "").splitlines()
    start = next((at for at, line in enumerate(lines) if line.startswith(">>>")), len(lines))
    paragraphs = [text for text in re.split(r"\n[ ]*\n", "\n".join(lines[1:start])) if text.strip()]
    names = [field.name for field in dataclasses.fields(kind)]
    body = [piece for text in paragraphs for piece in _paragraph(text.strip("\n"), names)]
    return lines[0], body, "\n".join(lines[start:]).strip()


def _paragraph(text: str, names: Sequence[str]) -> list[str]:
    """A paragraph, cut where one of the headings begins a line; what is set in is code or a list."""
    if text.startswith("    "):
        return [f"```text\n{textwrap.dedent(text)}\n```"]
    pieces = re.split(rf"\n(?=(?:{'|'.join(HEADINGS)})\b)", text)
    return [_piece(piece, names) for piece in pieces]


def _piece(text: str, names: Sequence[str]) -> str:
    first, *rest = text.splitlines()
    if first == "Raises:":
        items = re.sub(r"\n\s{8,}", " ", "\n" + "\n".join(rest)).strip().splitlines()
        return "**Raises**\n\n" + "\n".join(f"- {item.strip()}" for item in items)
    for heading in HEADINGS:
        if text.startswith(heading):
            return re.sub(rf"^{heading}[^:,]*?(?=:|,| )", lambda found: f"**{found[0]}**", text, count=1)
    if names and re.match(rf"(?:{'|'.join(names)}): ", text):  # a parameter a line, and the lines set in below it
        text = re.sub(r"\n    +", "\n  ", text)
        return re.sub(rf"(?m)^({'|'.join(names)}): ", r"- `\1`: ", text)
    return text


def _parameters(kind: type[Stage]) -> str:
    fields = dataclasses.fields(kind)
    if not fields:
        return "None."
    hints = typing.get_type_hints(kind)
    rows = ["| name | type | default |", "|---|---|---|"]
    for field in fields:
        default = "needed" if field.default is dataclasses.MISSING else f"`{_shown(field.default)}`"
        rows.append(f"| `{field.name}` | {_spoken(hints[field.name])}{_range(field)} | {default} |")
    return "\n".join(rows)


def _range(field: dataclasses.Field[typing.Any]) -> str:
    only = field.metadata.get("only_with")
    words = [str(field.metadata["range"])] if "range" in field.metadata else []
    words += [f"only with `{only[0]}` = `{only[1]}`"] if only else []
    return "".join(f", {part}" for part in words)


def _shown(value: object) -> str:
    if isinstance(value, Stage):
        return brief(value)
    return "none" if value is None else to_toml(value).strip('"')


def _spoken(hint: object) -> str:
    """A type in words."""
    options = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(f"`{option}`" for option in options)
    if options:
        return " or ".join(_spoken(option) for option in options)
    words = {float: "number", int: "whole number", bool: "true or false", str: "text", type(None): "none"}
    return words.get(typing.cast(type, hint), getattr(hint, "__name__", str(hint)))


def _example(kind: type[Stage]) -> Stage:
    """The stage of the doctest, or with its defaults."""
    source = (inspect.getdoc(kind) or "").partition(f">>> {kind.__name__}(")[2].partition("\n")[0]
    call = ast.parse(f"f({source}" if source else "f()", mode="eval").body
    assert isinstance(call, ast.Call)
    try:
        return kind(**{str(word.arg): ast.literal_eval(word.value) for word in call.keywords})
    except ValueError:  # an example that is made of other objects
        return kind()


def _toml(kind: type[Stage]) -> str:
    stage = _example(kind)
    numbers = {"stage": kind.__name__, **to_numbers(stage)}
    lines = [f"{key} = {to_toml(value)}" for key, value in numbers.items() if value is not None]
    return "\n".join(["```toml", "[[algorithm.chain]]", *lines, "```"])


def _facts(kind: type[Stage]) -> str:
    stage = _example(kind)
    hooks = [hook for hook in HOOKS if kind.has(hook)]
    if isinstance(stage, Aggregator):
        hooks += [hook for hook in OF_AGGREGATORS if getattr(kind, hook) is not getattr(Aggregator, hook)]
    rows = {
        "place in the chain": f"{kind.place.summary} ({int(kind.place)} of {len(Place)})",
        "hooks": ", ".join(f"`{hook}`" for hook in hooks) or "none",
        "needs": _needs(stage),
        "sends beside the delta": _vectors(stage),
        "clients receive": _tensors(stage.broadcast(stage.init(torch.zeros(3)))),
        "a client remembers": _tensors(stage.remember(torch.zeros(3))),
        "the server remembers": _tensors(stage.init(torch.zeros(3))),
        "sets these facts": _sets(stage),
        "recipes": _recipes(kind),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items())])


CLIPPED = {"bound": 1.0}
COHORT = SamplerFacts("all", 100.0, 100)
INTEGERS = {
    "specs": {"delta": VectorSpec(None, "integer")},
    "number": "ring",
    "largest": 32767,
    "integer_norm": 32767.5,
}
MASKED = CLIPPED | INTEGERS | {"weighted": True, "lifted": 1.0, "sampler": COHORT}
BEFORE: tuple[dict[str, object], ...] = ({}, CLIPPED, MASKED)  # what earlier stages may have set, the plainest first


def _flow(stage: Stage, **facts: object) -> Flow:
    """What a usual surrounding knows, and the earlier stages that this one cannot do without."""
    trainer = TrainerFacts("LocalSGD", frozenset({"steps", *MEASUREMENTS}), applies=frozenset({"gradient", "step"}))
    plain = Flow(trainer=trainer, engine=EngineFacts("Local"))
    for before in BEFORE:
        flow = dataclasses.replace(plain, **before)
        if not _refuses(stage, flow):
            break
    return dataclasses.replace(flow, **facts)


def _refuses(stage: Stage, flow: Flow) -> bool:
    try:
        stage.connect(flow)
    except ChainRefused:
        return True
    return False


def _connected(stage: Stage) -> Flow:
    return stage.connect(_flow(stage))


def _needs(stage: Stage) -> str:
    """What the stage refuses to be without, found by leaving out one thing after another."""
    found = [NEEDED.get(need, need.replace("_", " ")) for need in sorted(_connected(stage).needs)]
    surroundings = {
        "clients that keep memory between rounds": _flow(stage, engine=EngineFacts("none", memory=False)),
        "rounds in step (no updates of any age)": _flow(stage, asynchronous=True),
        "plain numbers, not a ring": _flow(stage, number="ring"),
        "integers of a quantiser": _flow(stage, number="real"),
        "a bound of one client's effect": _flow(stage, bound=None),
        "that the server sees each update": _flow(stage, server_sees="sum"),
    }
    found += [need for need, flow in surroundings.items() if _refuses(stage, flow)]
    if _connected(stage).equal:
        found.append("a mean in which clients count the same")
    return "; ".join(found) or "nothing special"


def _vectors(stage: Stage) -> str:
    after = _connected(stage)
    extra = [name for name in after.vectors if name != "delta"]
    if not extra:
        return "nothing"
    lengths = after.lengths(1000)
    sizes = {name: "4 bytes" if lengths[name] == 1 else "4 bytes a parameter, as much as the delta" for name in extra}
    return "; ".join(f"`{name}`, {size}" for name, size in sizes.items())


def _tensors(tensors: typing.Mapping[str, torch.Tensor]) -> str:
    if not tensors:
        return "nothing"
    sizes = {name: "one number" if t.numel() == 1 else "a number per parameter" for name, t in tensors.items()}
    return "; ".join(f"`{name}`, {size}" for name, size in sizes.items())


def _sets(stage: Stage) -> str:
    after, before = _connected(stage), _flow(stage)
    hidden = {"sampler", "vectors", "scalars", "specs", "needs", "additive", "dense", "equal"}
    facts = {name: getattr(after, name) for name in sorted(after.set_by) if name not in hidden}
    changed = {name: value for name, value in facts.items() if value != getattr(before, name)}
    return ", ".join(f"`{name}` = {_fact(value)}" for name, value in changed.items()) or "none"


def _fact(value: object) -> str:
    if isinstance(value, PrivacyEvent):
        return f"{value.mechanism} noise at the {value.at}"
    if isinstance(value, tuple):
        return ", ".join(map(_fact, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _recipes(kind: type[Stage]) -> str:
    """The recipes that have the stage; those with ECGR on top count for ECGR alone."""
    used = [name for name in recipes.names() if any(type(stage) is kind for stage in recipes.chain_of(name))]
    plain = [name for name in used if "+" not in name]
    if used and not plain:
        return f"those whose name ends in `+{used[0].partition('+')[2]}`"
    return ", ".join(f"`{name}`" for name in plain) or "none"


def _place_of(kind: type[Stage]) -> str:
    return Path(inspect.getfile(kind)).relative_to(SOURCE.resolve()).as_posix()


def pages() -> dict[str, str]:
    """Every page under its file's name."""
    return {"index.md": index(), **{f"{name}.md": page(kind) for name, kind in ours().items()}}


def main() -> None:
    """Writes the pages, and removes those of stages that are no more."""
    FOLDER.mkdir(exist_ok=True)
    written = pages()
    for old in FOLDER.glob("*.md"):
        if old.name not in written:
            old.unlink()
    for name, text in written.items():
        (FOLDER / name).write_text(text, "utf-8")
    print(f"{FOLDER}: {len(written)} pages")


if __name__ == "__main__":
    main()
