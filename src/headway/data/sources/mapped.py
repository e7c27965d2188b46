"""Data that stay on disk: arrays mapped into memory, of which only what is looked at is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headway.core.errors import ConfigError, DataError
from headway.core.names import NumberedNames
from headway.data.dataset.client_index import ClientIndex
from headway.data.dataset.examples import Examples
from headway.data.dataset.federated import FederatedData, in_order
from headway.data.dataset.owners import group_codes
from headway.data.dataset.split import Splitter, last_tested
from headway.data.dataset.targets import TargetKind, Targets, understood
from headway.data.sources.example_pool import ExamplePool
from headway.data.sources.missing import no_file
from headway.numerics.keys import Key

X, Y, CLIENT = "x.npy", "y.npy", "client.npy"


def is_mapped(path: Path) -> bool:
    """Whether a folder holds arrays that `mapped` reads."""
    return (path / X).is_file() and (path / Y).is_file()


def mapped(
    path: Path | str,
    *,
    clients: int | None = None,
    test_share: float = 0.2,
    central: Examples | None = None,
    split: str | None = None,
    group: str | None = None,
    task: TargetKind | None = None,
    key: Key | int = 0,
) -> FederatedData:
    """The arrays `x.npy` `[N, ...]` and `y.npy` `[N]` of a folder, without reading them into memory.

    `client.npy` holds the number of the client that has each example, whole numbers from 0, and every client below
    the largest has one or more; without it, the examples lie client after client, as many for each of `clients`.  Of n
    examples of a client the last `round(n test_share)` are its test part, unless `split` is another rule (see
    `Splitter`; `group` is the name of a further file, `group.npy`, and `key` decides what is drawn).  Inputs are
    float32 or float64, or int64 for tokens; targets are int64 classes, or floats for regression: others would have to
    be converted, and so copied.  task: how targets are read, see `understood`; only those that change are copied.

    Raises:
        ConfigError: neither `clients` nor `client.npy`, or both and they differ; a wrong `test_share`.
        DataError: a file is missing, unreadable or of another type, the lengths differ, or a client has no example.
    """
    path = Path(path)
    store, found = _read(path, task)
    classes, about = found.classes, f"arrays of {path.name}, mapped from disk"
    if (path / CLIENT).is_file():
        owners = _open(path / CLIENT, ("int64",))
        if owners.ndim != 1 or len(owners) != len(store):
            raise DataError(
                f"{path / CLIENT} is {list(owners.shape)}, but one number for each of {len(store)} is needed."
            )
        parts = _owned(owners, path / CLIENT)
        if clients not in (None, len(parts)):
            raise ConfigError(f"{path} has {len(parts)} clients of its own, not {clients}; leave clients out.")
    elif clients is None:
        raise ConfigError(f"{path} has no {CLIENT}, so clients, their number, is needed; give clients.")
    else:
        parts = in_order(len(store), clients, path.name)
    labels = store.targets if classes is not None and store.targets.ndim == 1 else None
    groups = None if group is None else _grouped(path / f"{group}.npy", len(store))
    rule = Splitter.of(split, test_share, labels=labels, groups=groups, group_name=group or "", usual="last")
    train, test = _parted(parts, rule, Key.of(key, "data"))
    notes = (*found.notes, *rule.notes(train, test))
    summary = rule.summary
    if split is None and groups is None and test_share:
        summary += "; other sources draw them, and a mapped folder does where data.split says so"
    return FederatedData(
        path.name, store, train, test, central, classes, about, class_names=found.names, notes=notes, split=summary
    )


def _read(path: Path, task: TargetKind | None) -> tuple[Examples, Targets]:
    """The arrays of a folder, and how the targets were understood."""
    store = mapped_examples(path / X, path / Y)
    found = understood(store.targets, f"{path.name}: {Y}", task, "data.task")
    return (store if found.values is store.targets else Examples(store.inputs, found.values)), found


def _parted(parts: ClientIndex, rule: Splitter, key: Key) -> tuple[ClientIndex, ClientIndex]:
    """The training and test part of each client."""
    if rule.kind == "last":
        return last_tested(parts, rule.test_share)
    both = {client: rule.part(index, key.derive("split", client)) for client, index in parts.items()}
    train, test = ({client: pair[side] for client, pair in both.items()} for side in (0, 1))
    return ClientIndex.of(train, "training"), ClientIndex.of(test, "test")


def _grouped(path: Path, count: int) -> Tensor:
    if not path.is_file():
        raise DataError(f"there is no file {path}, which is to name the groups; check the path.")
    return group_codes(_open(path, ("int64", "int32", "float64", "float32")).numpy(), str(path), count)


def mapped_pool(path: Path, *, group: str | None = None, task: TargetKind | None = None) -> ExamplePool:
    """The same arrays, which stay mapped, for a partition to deal to clients.

    Raises:
        ConfigError: the folder names the clients itself.
        DataError: what `mapped` raises.
    """
    store, found = _read(path, task)
    if (path / CLIENT).is_file():
        raise ConfigError(
            f"{path} names its clients in {CLIENT}, so a partition cannot apply; leave the partition out."
        )
    about = f"arrays of {path.name}, mapped from disk"
    groups = None if group is None else _grouped(path / f"{group}.npy", len(store))
    return ExamplePool(
        path.name,
        store.inputs,
        store.targets,
        found.classes,
        description=about,
        class_names=found.names,
        notes=found.notes,
        groups=groups,
        group_name=group or "",
    )


def mapped_examples(inputs: Path | str, targets: Path | str) -> Examples:
    """Two `.npy` files as examples, mapped into memory: pages are read when looked at, and nothing is written back.

    Raises:
        DataError: a file is missing or unreadable, of a type that would have to be converted, or they do not pair up.
    """
    return Examples(
        _open(Path(inputs), ("float32", "float64", "int64")), _open(Path(targets), ("int64", "float32", "float64"))
    )


def _open(path: Path, numbers: tuple[str, ...]) -> Tensor:
    if not path.is_file():
        raise DataError(no_file(path))
    try:
        array: Any = np.load(path, mmap_mode="c", allow_pickle=False)  # "c": torch wants it writable; the file is not
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is not a readable .npy file of numbers; write it with numpy.save.") from error
    if array.dtype.name not in numbers or not array.dtype.isnative or not array.flags.c_contiguous or array.ndim == 0:
        raise DataError(
            f"{path} holds {array.dtype.name} {list(array.shape)}, but {' or '.join(numbers)} in C order is needed to "
            "be used as it is; convert it once, with numpy.ascontiguousarray(...).astype(...)."
        )
    return torch.from_numpy(array)


def _owned(owners: Tensor, path: Path) -> ClientIndex:
    """The index of each client's examples, from the client's number of each example, int64 `[N]`."""
    if int(owners.min()) < 0:
        raise DataError(f"{path} holds {int(owners.min())}, but client numbers start at 0.")
    if int(owners.max()) >= len(owners):
        raise DataError(f"{path} names the client {int(owners.max())}, but there are only {len(owners)} examples.")
    sizes = torch.bincount(owners)
    if not bool(sizes.all()):
        raise DataError(f"{path} gives the client {int(sizes.argmin())} no example; number the clients without gaps.")
    ordered = bool((owners[1:] >= owners[:-1]).all())
    index = None if ordered else owners.argsort(stable=True)
    return ClientIndex(NumberedNames(len(sizes)), sizes.cumsum(0) - sizes, sizes, index)
