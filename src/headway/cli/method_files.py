"""Which methods a comparison is of: the run file of each, all on the same data and model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from headway.core.errors import ChainRefused, ConfigError, nearest
from headway.experiment.grid_search import Candidate, candidates
from headway.experiment.runfile import RunFile, load_runfile
from headway.experiment.runfile_schema import AlgorithmSection


def method_files(
    files: Sequence[str], methods: Sequence[str] | None, sets: Sequence[str], rounds: int | None
) -> tuple[dict[str, RunFile], dict[str, str]]:
    """The run file of every method, and of those whose chain is refused the reason; all train on the same data.

    Raises:
        ConfigError: if nothing is there to compare, or the files differ in their data.
        ChainRefused: if every method is refused; the first one's.
    """
    runfiles: dict[str, RunFile] = {}
    refused: dict[str, ChainRefused] = {}
    _check_sets(sets, files)
    for file in files:
        plain = load_runfile(file, sets if methods is None else (), rounds=rounds) if len(files) > 1 else None
        names = methods or (load_runfile(file, _of_file(sets)).sections.compare.methods if plain is None else None)
        if plain is not None and names is None:
            if plain.name in runfiles:
                raise ConfigError(f"two of the files are named {plain.name!r}: give each its own [run] name.")
            runfiles[plain.name] = plain
            continue
        for name in names or ():
            try:
                method = load_runfile(file, _for_method(sets, file, name), rounds=rounds, method=name)
            except ChainRefused as error:
                refused[name if len(files) == 1 else f"{Path(file).stem} {name}"] = error
                continue
            runfiles[name if len(files) == 1 else f"{method.name} {name}"] = method
    if methods and (twice := [name for name in methods if methods.count(name) > 1]):
        raise ConfigError(f"--methods names {twice[0]!r} twice: a method is compared with others once.")
    if refused and not runfiles:
        raise next(iter(refused.values()))
    if len(runfiles) + len(refused) < 2:
        raise ConfigError(
            "a comparison needs at least two methods: give --methods fedavg,scaffold, several files, or "
            "[compare] methods in the file."
        )
    _check_same_data(runfiles)
    if len(files) == 1:
        _check_reached(sets, runfiles)
    return runfiles, {name: f"refused: {error}" for name, error in refused.items()}


def _check_sets(sets: Sequence[str], files: Sequence[str]) -> None:
    """Refuses to set an option of a recipe where there are several methods, each with its own."""
    for keys in map(_keys, sets):
        if len(files) == 1 and len(keys) == 2 and keys[0] == "algorithm" and keys[1] != "preset":
            raise ConfigError(
                f"--set {'.'.join(keys)} changes one recipe, and several methods are compared: set a stage's field "
                "(algorithm.FedProx.mu=0.1), or write a [methods.NAME] table."
            )


def _check_reached(sets: Sequence[str], runfiles: Mapping[str, RunFile]) -> None:
    """Refuses a change to a stage that no method has."""
    present = {label for runfile in runfiles.values() for label in runfile.algorithm.chain.labels}
    for keys in filter(_is_of_stage, map(_keys, sets)):
        if keys[1] not in present:
            raise ConfigError(
                f"--set {'.'.join(keys)}: none of the methods has a stage {keys[1]!r}{nearest(keys[1], present)}."
            )


def _keys(text: str) -> list[str]:
    return text.partition("=")[0].strip().split(".")


def _is_of_stage(keys: Sequence[str]) -> bool:
    return keys[0] == "algorithm" and len(keys) == 3 and keys[1] not in AlgorithmSection.model_fields


def _of_file(sets: Sequence[str]) -> list[str]:
    """The changes to a file's own keys, leaving out those to stages."""
    return [text for text in sets if not text.startswith("algorithm.")]


def _for_method(sets: Sequence[str], file: str, method: str) -> list[str]:
    """The changes that apply to a method: one addressed to a stage is for the methods that have it."""
    chain = {
        table["stage"] for table in load_runfile(file, _of_file(sets), method=method).resolved()["algorithm"]["chain"]
    }
    return [text for text in sets if not _is_of_stage(_keys(text)) or _keys(text)[1] in chain]


def _check_same_data(runfiles: Mapping[str, RunFile]) -> None:
    names = list(runfiles)
    for section in ("data", "model", "task"):
        tables = {name: runfiles[name].resolved().get(section, {}) for name in names}
        for name in names[1:]:
            if tables[name] != tables[names[0]]:
                raise ConfigError(
                    f"methods are compared on the same data and model, but [{section}] of {name!r} differs from that "
                    f"of {names[0]!r}: {tables[name]} and {tables[names[0]]}."
                )
    if len({runfile.sections.run.rounds for runfile in runfiles.values()}) > 1:
        raise ConfigError("methods are compared over the same number of rounds: give --rounds for all.")


def method_grids(
    files: Sequence[str], runfiles: Mapping[str, RunFile], sets: Sequence[str], rounds: int | None
) -> list[Candidate]:
    """All settings of the methods that have a grid: [compare.grid] is for all, [methods.NAME.grid] for one.

    A path to a stage is for the methods whose chain has it.

    Raises:
        ConfigError: if grids are asked for with several files, or no method has a stage that is named.
    """
    sections = next(iter(runfiles.values())).sections
    common, own = sections.compare.grid, {name: table.get("grid", {}) for name, table in sections.methods.items()}
    if not common and not any(own.get(method) for method in runfiles):
        return []
    if len(files) > 1:
        raise ConfigError("grids are tuned where one run file names the methods: compare a single file.")
    _check_reached([f"{path}=" for path in common], runfiles)
    found: list[Candidate] = []
    for method in runfiles:
        labels = runfiles[method].algorithm.chain.labels
        shared = {path: v for path, v in common.items() if not _is_of_stage(_keys(path)) or _keys(path)[1] in labels}
        grid = {**shared, **own.get(method, {})}
        base = _for_method(sets, files[0], method)

        def load(changes: list[str], base: list[str] = base, method: str = method) -> RunFile:
            return load_runfile(files[0], [*base, *changes], rounds=rounds, method=method)

        found += candidates(method, grid, load) if grid else []
    return found
