"""Effects of a model other than mapping inputs to outputs, determined on a few examples before it is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from headway.core.algorithm import Algorithm
from headway.core.errors import ConfigError
from headway.data import Examples
from headway.model.flat_module import FlatModule
from headway.model.random_state import GENERATORS, has_moved, outside, rewind_outside
from headway.model.task import Task

EXAMINED = 2  # examples
NAMED = 3
CLOSE = 1e-4  # to which a model gives the same again, as a share of its largest output


def examine(flat_module: FlatModule, examples: Examples) -> None:
    """Finds out whether the model writes into its inputs, keeps something in attributes, or draws random numbers that
    are not torch's; a model that writes is called with copies from then on.

    The model is called on copies of these examples `[B, ...]`, twice in training and once in evaluation mode.  All is
    left as it was: parameters, buffers, attributes, modes, generators.  A model that fails is left to the trial of the
    whole path, which names the client.

    Raises:
        ConfigError: if the model makes parameters when it is called, or gives something else for the same examples
            under the same seeds.
    """
    module, site = flat_module.module, flat_module.site
    before, others = flat_module.snapshot(), outside()
    named = {name for name, _ in module.named_parameters()}
    inputs = flat_module.to_memory_format(site.examples(examples).inputs)
    given: list[object] = []
    with untouched(flat_module):
        for training in (True, True, False):
            flat_module.attributes.restore()
            flat_module.restore(before)
            flat_module.draws.at(0, 0)
            site.seed(0)
            rewind_outside(others)
            module.train(training)
            try:
                given.append(_called(flat_module, inputs, training))
            except Exception:  # whatever a user's model may raise
                return
            flat_module.outside = flat_module.outside or has_moved(others)
            flat_module.keeps = tuple(dict.fromkeys((*flat_module.keeps, *flat_module.attributes.changed())))
            if fresh := {name for name, _ in module.named_parameters()} - named:
                raise ConfigError(
                    f"the model makes the parameter {min(fresh)!r} when it is called, and what is exchanged must be "
                    "known before: make it in __init__, or use torch's lazy layers (nn.LazyLinear)."
                )
    if not _alike(given[0], given[1]):
        raise ConfigError(
            f"the model {type(module).__name__} gives other outputs when it is called again on the same examples under "
            "the same seeds, so no run could be repeated: it draws from a generator of its own (such as "
            "numpy.random.default_rng() without a seed), or keeps something outside its attributes. Draw with torch, "
            "numpy.random or random, which each client's key seeds, and keep nothing between calls."
        )


@contextmanager
def untouched(flat_module: FlatModule) -> Iterator[None]:
    """Puts back what a client's work changes: parameters, buffers, attributes, modes, and all generators.

    No other thread uses these meanwhile.
    """
    with GENERATORS:
        modes = {part: part.training for part in flat_module.module.modules()}
        before, drawn, others = flat_module.snapshot(), flat_module.site.rng_state(), outside()
        try:
            yield
        finally:
            flat_module.attributes.restore()
            flat_module.restore(before)
            flat_module.site.set_rng_state(drawn)
            rewind_outside(others)
            for part, mode in modes.items():
                part.training = mode


@contextmanager
def undisturbed(flat_module: FlatModule) -> Iterator[None]:
    """Leaves the generators of torch, NumPy and Python, and the attributes of the model, as they were found; no other
    thread uses them meanwhile."""
    with GENERATORS:
        before = flat_module.rng_state()
        try:
            yield
        finally:
            flat_module.attributes.restore()
            flat_module.set_rng_state(before)


def has_own_code(algorithm: Algorithm, task: Task) -> bool:
    """Whether a trainer, stage, loss or metric that is not Headway's own runs with the model: it may draw from
    NumPy's or Python's generator."""
    parts = (algorithm.trainer, *algorithm.chain)
    return bool(task.own_functions) or any(not type(part).__module__.startswith("headway.") for part in parts)


def habit_notes(flat_module: FlatModule) -> list[str]:
    """Notes for the user on how the model is used here, in sentences."""
    notes = []
    if flat_module.keeps:
        more = f" and {len(flat_module.keeps) - NAMED} more" if len(flat_module.keeps) > NAMED else ""
        notes.append(
            f"the model keeps {', '.join(flat_module.keeps[:NAMED])}{more} between calls: that starts anew with "
            "each client in each round, and in each evaluation, so that nothing passes from client to client."
        )
    if flat_module.still:
        notes.append(
            f"the statistics of {', '.join(flat_module.still[:NAMED])} stay as they are, since the parameters of these "
            "layers are frozen."
        )
    return notes


class Unwritten:
    """Notices whether anything has written into the stored examples, by torch's count of writes."""

    def __init__(self, examples: Examples) -> None:
        self.tensors = [t for t in (examples.inputs, examples.targets) if not t.is_inference()]
        self.versions = [tensor._version for tensor in self.tensors]

    def check(self) -> None:
        """Refuses to go on with examples that have been changed.

        Raises:
            ConfigError: if so.
        """
        if [tensor._version for tensor in self.tensors] != self.versions:
            raise ConfigError(
                "the model, the loss or a metric has written into the stored examples, which it did not do on the few "
                "that were tried before: the run has stopped, since its data are no longer what they were. Let it work "
                "on copies (x = x.clone())."
            )


def sequential_reason(flat_module: FlatModule) -> str | None:
    """Why a model cannot be one batched program for many clients, as a phrase; `None` if it may."""
    if flat_module.keeps:
        return f"the model keeps {flat_module.keeps[0]} between calls"
    return "the model draws from NumPy's or Python's generator" if flat_module.outside else None


def _called(flat_module: FlatModule, inputs: Tensor, training: bool) -> object:
    """The model's outputs of a copy of the inputs; if it writes into these, it is given copies from now on."""
    copied = flat_module.to_memory_format(inputs.clone())
    with torch.set_grad_enabled(training):
        outputs = flat_module.module(copied)
    if copied.shape != inputs.shape or not torch.equal(copied, inputs):
        flat_module.copy_inputs()
    return outputs


def _alike(one: object, other: object) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return True
    if one.shape != other.shape:
        return False
    one, other = one.detach().double().nan_to_num(), other.double().nan_to_num()
    return not one.numel() or bool((one - other).abs().max() <= CLOSE * one.abs().max())
