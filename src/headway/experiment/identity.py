"""The identity of a run: the facts that must be the same to go on with it, and the differences in a sentence."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import platform
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import headway.samplers
import headway.stages  # noqa: F401 (both register what algorithms name)
from headway.core.algorithm import Algorithm
from headway.core.chain import Chain
from headway.core.errors import HeadwayError, RunFolderError
from headway.core.registry import build, to_numbers
from headway.core.sampler import samplers
from headway.data import ClientData
from headway.engines import Engine
from headway.model.flat_module import FlatModule
from headway.model.task import Task
from headway.numerics.keys import DRAWS
from headway.protocol.quorum import Quorum
from headway.protocol.reputation import Reputation
from headway.training.registered_trainers import trainers

SHOWN = 4  # differences in one sentence
HASHES = {  # of what cannot be shown: what a difference means
    "data": "the data: other examples, targets, clients or division among them; at a server, another schema, list of "
    "clients or name of the job",
    "model.layout": "the model: other names or shapes of its parameters",
    "model.start": "the model's initial weights",
    "frozen weights": "the model: other frozen weights",
}


def identity_of(
    algorithm: Algorithm, known: ClientData, task: Task, engine: Engine, flat_module: FlatModule, **options: Any
) -> dict[str, Any]:
    """The facts that must be the same for a run to be the same run, and the versions and code that made it.

    options: further plain values, under their names.
    """
    start = hashlib.sha256(flat_module.shared.cpu().numpy().data).hexdigest()[:32]
    return {
        "versions": {
            "headway": _version(),
            "draws": DRAWS,
            "torch": torch.__version__,
            "python": platform.python_version(),
            **engine.site.versions,
        },
        **options,
        "algorithm": _json_ready(algorithm),
        "task": task_numbers(task),
        "clock": json.loads(json.dumps(engine.timed)),
        "model": {"layout": flat_module.layout.fingerprint, "start": start},
        **({"frozen weights": frozen_digest(flat_module.frozen)} if flat_module.frozen else {}),
        "data": known.fingerprint(),
        "plan": {"engine": engine.recorded_name, **engine.pinned_settings, "threads": torch.get_num_threads()},
        "code": code_of(task, flat_module.module, algorithm),
    }


def frozen_digest(tensors: Mapping[str, Tensor]) -> str:
    """A digest of named tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def compare(made: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> list[str]:
    """Notices about going on, now, with a run that was made so; none where all is known to be the same.

    made: as a run folder holds it, perhaps by an earlier version, which did not write down all of this.

    Raises:
        RunFolderError: naming what differs, key by key.
    """
    free = ("versions", "code", "evaluation")  # checked apart, or only mentioned
    differing = [
        line for name in now if name in made and name not in free for line in differences(made[name], now[name], name)
    ]
    if differing:
        more = f"; and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        raise RunFolderError(
            f"the run in {where} was made with another {_parts(differing)}: {'; '.join(differing[:SHOWN])}{more}. "
            "Resume it as it was, or start a new run."
        )
    notices = [
        f"{line}. No weight depends on it, but the best model and the curves do."
        for line in differences(made.get("evaluation", now.get("evaluation")), now.get("evaluation"), "evaluation")
    ]
    if unknown := [name for name in now if name not in made and name not in free]:
        notices.append(
            f"the run was begun by an earlier version, which did not write down its {', '.join(unknown)}: whether "
            "these are the same is not known."
        )
    if "code" in made:
        before, code = made["code"], now["code"]
        changed = sorted(name for name in before.keys() | code.keys() if before.get(name) != code.get(name))
        if changed:
            notices.append(
                f"the source of {', '.join(changed)} has changed since the run was begun: from here on the run may "
                "learn otherwise than it would have."
            )
    return notices


def differences(made: Any, now: Any, path: str) -> Iterator[str]:
    """Each value that differs, as `path: one there, the other now`.

    >>> list(differences({"lr": 0.1, "epochs": 1}, {"lr": 0.2, "epochs": 1}, "trainer"))
    ['trainer.lr: 0.1 there, 0.2 now']
    """
    if made == now:
        return
    if path in HASHES:
        yield HASHES[path]
    elif isinstance(made, Mapping) and isinstance(now, Mapping):
        for key in [*made, *(key for key in now if key not in made)]:
            yield from differences(made.get(key, "nothing"), now.get(key, "nothing"), f"{path}.{key}")
    elif isinstance(made, list) and isinstance(now, list) and len(made) == len(now):
        for place, (one, other) in enumerate(zip(made, now, strict=True), start=1):
            yield from differences(one, other, f"{path}[{place}]")
    else:
        yield f"{path}: {_short(made)} there, {_short(now)} now"


def described(algorithm: Algorithm) -> dict[str, Any]:
    """All of an algorithm by names and numbers: its chain, trainer, sampler and quorum, and the reputation, if any."""
    return {
        "chain": algorithm.chain.to_config(),
        "trainer": trainers.describe(algorithm.trainer),  # type: ignore[arg-type]
        "sampler": samplers.describe(algorithm.sampler),
        "quorum": to_numbers(algorithm.quorum),
        **({} if algorithm.reputation is None else {"reputation": to_numbers(algorithm.reputation)}),
    }


def algorithm_of(tables: Mapping[str, Any]) -> Algorithm:
    """The algorithm of what `described` gave.

    Raises:
        HeadwayError, KeyError, TypeError: if a part of it is not known here.
    """
    return Algorithm(
        Chain.from_config(tables["chain"]),
        trainers.build(tables["trainer"]),
        samplers.build(tables["sampler"]),
        build(Quorum, tables["quorum"]),
        build(Reputation, tables["reputation"]) if "reputation" in tables else None,
    )


def migrate_config(tables: Any) -> Any:
    """An algorithm as it was described when a folder was made, with the options that have been added since.

    Their defaults are what was done before they existed.
    """
    try:
        return _json_ready(algorithm_of(tables))
    except (HeadwayError, KeyError, TypeError):
        return tables  # of a stage that is not known here: the comparison names what differs


def code_of(task: Task, module: nn.Module, algorithm: Algorithm) -> dict[str, str]:
    """The files of the user that the model, loss, metrics, trainer and stages come from, with a digest of each.

    What such a file imports is not looked at, nor code without a file.
    """
    things = [task.model, *task.own_functions, algorithm.trainer, algorithm.sampler, *algorithm.chain.stages]
    names = {getattr(inspect.unwrap(each), "__module__", None) for each in things if callable(each)}
    names |= {type(each).__module__ for each in [*things, *module.modules()]}
    digests = {}
    for name in sorted(name for name in names if isinstance(name, str) and name != "__main__"):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None and not _installed(Path(file)):
            digests[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:32] if Path(file).is_file() else ""
    return digests


def _installed(file: Path) -> bool:
    """Whether a file belongs to a package, this one or another, rather than to the user."""
    paths = sysconfig.get_paths()
    roots = [Path(__file__).parent, *(Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib"))]
    return any(file.resolve().is_relative_to(root.resolve()) for root in roots)


def task_numbers(task: Task) -> dict[str, Any]:
    """A task in plain values; a loss or metric of one's own by its name."""

    def named(value: object) -> str:
        if dataclasses.is_dataclass(value):  # with its numbers, such as those by which a target is scaled
            return repr(value)
        return value if isinstance(value, str) else getattr(value, "__qualname__", type(value).__qualname__)

    return {
        "loss": named(task.loss),
        "metrics": [named(metric) for metric in task.metrics],
        "shared": None if task.shared is None else list(task.shared),
        "buffers": task.buffers,
        "dtype": task.dtype,
    }


def _parts(found: list[str]) -> str:
    """The parts of a run that the differences are in, in words.

    >>> _parts(["algorithm.trainer.lr: 0.1 there, 0.2 now", "seed: 0 there, 1 now"])
    'algorithm and seed'
    """
    names = list(dict.fromkeys(line.split(":")[0].split(".")[0].split("[")[0].removeprefix("the ") for line in found))
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _short(value: object) -> str:
    text = value if value == "nothing" else json.dumps(value)
    assert isinstance(text, str)
    return text if len(text) <= 160 else text[:157] + "..."


def _json_ready(algorithm: Algorithm) -> Any:
    return json.loads(json.dumps(described(algorithm)))


def _version() -> str:
    from headway import __version__

    return __version__
