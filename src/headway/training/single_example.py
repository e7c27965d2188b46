"""Batches of a single example, on which some models cannot train: refused before any client is drawn."""

from __future__ import annotations

from collections.abc import Iterable

from headway.core.errors import ConfigError
from headway.data import FederatedData, batch_bounds
from headway.data.dataset.client_index import ClientIndex
from headway.model.blame import layer_of
from headway.model.flat_module import FlatModule
from headway.model.module_checks import untouched
from headway.training.loop_trainer import LoopTrainer
from headway.training.sgd_options import SGDOptions
from headway.training.trainer import Trainer

NAMED = 3
FARTHEST = 64  # how far from the batch size another one is looked for


def check_single(trainer: Trainer, flat_module: FlatModule, data: FederatedData, drawn: Iterable[str] | None) -> None:
    """Refuses batches of one example in the local epochs of a model that fails on them, such as one with BatchNorm.

    drawn: the clients that a round can have; `None` for all.

    Raises:
        ConfigError: naming the clients, and what to do.
    """
    if not isinstance(trainer, LoopTrainer):
        return
    options = trainer.plan.options
    train = ClientIndex.of(data.train)
    names = None if drawn is None else [name for name in drawn if name in train]
    sizes = train.sizes if names is None else train.sizes_of(names)
    singles = {size for size in sizes.unique().tolist() if _has_single(options, size)}
    if not singles or (failure := _failure(flat_module, data)) is None:
        return
    each = zip(train.names if names is None else names, sizes.tolist(), strict=True)
    clients = [(name, size) for name, size in each if size in singles]
    listed = ", ".join(f"{name} ({size} example{'s' * (size > 1)})" for name, size in clients[:NAMED])
    more = f" and {len(clients) - NAMED} more" if len(clients) > NAMED else ""
    raise ConfigError(
        f"the model cannot train on a batch of one example ({failure}), and the local epochs of {len(clients)} of "
        f"{len(sizes)} clients have one: {listed}{more}. {_remedy(options, sorted(set(sizes.tolist())))}"
    )


def _has_single(options: SGDOptions, examples: int) -> bool:
    """Whether a client of so many examples trains on a batch of one."""
    bounds = options.bounds(options.training_count(examples))
    return any(stop - start == 1 for start, stop in bounds[: options.steps])


def _failure(flat_module: FlatModule, data: FederatedData) -> str | None:
    """With what the model fails on one example in training and not on two, as a phrase; `None` if it does not."""
    failures = []
    for count in (2, 1):
        batch = flat_module.site.examples(data.store.rows(0, count))
        with untouched(flat_module):
            flat_module.module.train()
            try:
                flat_module.task.criterion.mean(
                    flat_module.module(flat_module.to_memory_format(batch.inputs)), batch.targets
                )
            except Exception as error:  # whatever a user's model may raise
                text = next(iter(str(error).strip().splitlines()), "")
                failures.append(f"{type(error).__name__}{layer_of(error)}: {text}".rstrip("."))
    return failures[0] if len(failures) == 1 else None


def _remedy(options: SGDOptions, sizes: list[int]) -> str:
    """The remedy, and its limits."""
    training = [options.training_count(size) for size in sizes]
    only = [size for size, rest in zip(sizes, training, strict=True) if rest == 1]
    others_fail = any(_has_single(options, size) for size in set(sizes) - set(only))
    ways = ["use GroupNorm or LayerNorm in the place of BatchNorm"]
    if (size := _batch_size(options, [rest for rest in training if rest > 1])) is not None:
        ways.insert(0, f"set algorithm.trainer.batch_size = {size}")
    if options.last_batch == "keep" and options.batch_size != 1:
        ways.insert(0, 'set algorithm.trainer.last_batch = "merge" (or "drop")')
    if not only:
        return f"Either {', or '.join(ways)}."
    held = f" with algorithm.trainer.validation = {options.validation:g}" if options.validation else ""
    others = f" For the others, {', or '.join(ways[:-1])}." if ways[:-1] and others_fail else ""
    return (
        f"Clients that train on a single example{held} cannot take part with such a model: leave them out "
        f'(algorithm.sampler = {{sampler = "Fixed", clients = [...]}}), or {ways[-1]}.{others}'
    )


def _batch_size(options: SGDOptions, training: list[int]) -> int | None:
    """The nearest batch size without a batch of one."""
    here = options.batch_size or 1
    for distance in range(1, FARTHEST):
        for size in (here - distance, here + distance):
            if size > 1 and not any(
                stop - start == 1 for count in training for start, stop in batch_bounds(count, size, options.last_batch)
            ):
                return size
    return None
