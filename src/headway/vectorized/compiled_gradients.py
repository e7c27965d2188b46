"""Gradients of local steps through `torch.compile`: of few shapes, and only if they agree with what torch does itself.

A step's forward pass, loss and gradients become one program without guards on sizes: batches of another size, and
client batches with too many empty lanes, go the usual way.  Which of them a step takes is a matter of its shape alone,
so that runs repeat to the bit in any number of processes.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from headway.data import Examples, FederatedData
from headway.model.flat_module import FlatModule
from headway.model.module_checks import sequential_reason
from headway.training.loop_trainer import LoopTrainer
from headway.training.trainer import Trainer
from headway.vectorized.gradient_functions import Function, Gradients, batch_gradients, single_gradients

MOST_WIDTHS = 3  # sizes of batches that are compiled, one client at a time
LEAST_SHARE = 0.1  # of the local steps: rarer sizes are not worth the seconds
FILLED = 0.7  # of the places of a full client batch: with fewer taken, as they are is faster than compiled and padded
AGAIN = 2  # times that torch may compile a program once more, such as after a change of its settings
LOOKED_AT = {"CONSTANT_MATCH", "EQUALS_MATCH", "ID_MATCH", "GLOBAL_STATE", "GRAD_MODE", "DETERMINISTIC_ALGORITHMS"}
MOST_LETTERS = 120  # of an error
AGREE = {torch.float64: 1e-8, torch.float32: 1e-3}
COARSE = {"tf32": 1e-2, "bfloat16": 5e-2}  # where products are rounded


class NotCompiled(Exception):
    """Why something is not compiled, as a phrase."""


class Compiled:
    """The function that gives a step's gradients, compiled for some sizes of batches.

    failed: why a program that had been checked has failed since, as a phrase; the steps go the usual way from then on.
    """

    def __init__(self, function: Function, flat_module: FlatModule) -> None:
        self.function, self.flat_module = function, flat_module
        self.programs: dict[int, CompiledProgram] = {}
        self.failed: str | None = None

    def add(self, width: int, trials: Sequence[tuple[Any, ...]]) -> None:
        """Compiles for batches of this width, if the arguments of these trials come to the same either way.

        Raises:
            NotCompiled: saying why not.
        """
        program = CompiledProgram(self.function)
        try:
            with _quietly():
                for arguments in trials:
                    self._check(program, arguments)
        except NotCompiled:
            raise
        except Exception as error:  # whatever torch or the model may raise
            raise NotCompiled(_phrase(error)) from error
        if program.made != 1:
            why = "is set not to compile here" if not program.made else "would compile it again and again"
            raise NotCompiled(f"torch {why}")
        self.programs[width] = program

    def call(self, width: int, *arguments: Any) -> Gradients | None:
        """Gradients and loss of a batch of this width; `None` if these do not come from a program."""
        if (program := self.programs.get(width)) is None:
            return None
        try:
            return program(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # what is the model's own fault, it will show again
            self.failed, self.programs = _phrase(error), {}
            return None

    def _check(self, program: CompiledProgram, arguments: tuple[Any, ...]) -> None:
        """Compares a program with its function, and what each makes of the model's statistics; these are put back."""
        flat_module, site = self.flat_module, self.flat_module.site
        before, drawn, results = flat_module.snapshot(), site.rng_state(), []
        for act in (self.function, program):
            grads, loss = act(*arguments)
            results.append([*grads.values(), loss, flat_module.statistics()])
            flat_module.restore(before)
            site.set_rng_state(drawn)
        close = COARSE.get(site.precision, AGREE[flat_module.shared.dtype])
        scale = max((float(tensor.abs().max()) for tensor in results[0] if tensor.numel()), default=0.0)
        for wanted, made in zip(*results, strict=True):
            if not torch.allclose(made, wanted, rtol=close, atol=close * scale):
                raise NotCompiled("it comes to another result when compiled")


class SingleGradients(Compiled):
    """The gradients of one client's step, by the model that is in the flat module."""

    def __init__(self, flat_module: FlatModule) -> None:
        names = {id(parameter): name for name, parameter in flat_module.module.named_parameters()}
        self.parameters = {names[id(parameter)]: parameter.detach() for parameter in flat_module.parameters}
        self.buffers = dict(flat_module.module.named_buffers())
        super().__init__(single_gradients(flat_module), flat_module)

    def __call__(self, inputs: Tensor, targets: Tensor, key: int, step: int) -> tuple[list[Tensor], Tensor] | None:
        """Gradients in the order of the module's parameters, and the loss; `None` for a batch of another size.

        key, step: of dropout.
        """
        made = self.call(len(inputs), *self.arguments(inputs, targets, key, step))
        return None if made is None else ([made[0][name] for name in self.parameters], made[1])

    def arguments(self, inputs: Tensor, targets: Tensor, key: int, step: int) -> tuple[Any, ...]:
        """The arguments of the function."""
        return self.parameters, self.buffers, inputs, targets, torch.tensor(key), torch.tensor(step)


class BatchedGradients(Compiled):
    """The gradients of a step of client batches that are full, or nearly full; empty places are padded.

    lanes, width: of the program.
    """

    def __init__(self, function: Function, flat_module: FlatModule, lanes: int, width: int) -> None:
        super().__init__(function, flat_module)
        self.lanes, self.width = lanes, width

    def takes(self, active: int, width: int) -> bool:
        """Whether a step of so many lanes and examples in each is done by the program."""
        fits = width <= self.width and active <= self.lanes and self.width in self.programs
        return fits and active * width >= FILLED * self.lanes * self.width

    def run(self, *arguments: Any) -> Gradients | None:
        """Gradients and losses of all places; `None` if the program has failed."""
        return self.call(self.width, *arguments)

    def trial(self, inputs: Tensor, targets: Tensor) -> tuple[Any, ...]:
        """Arguments with the module's model in every lane, and these examples `[C * B, ...]`."""
        flat_module, site = self.flat_module, self.flat_module.site
        views = flat_module.layout.views(flat_module.shared.expand(self.lanes, -1).clone())
        inputs, targets = (t.unflatten(0, (self.lanes, self.width)) for t in (inputs, targets))
        weights = flat_module.shared.new_full((self.lanes, self.width), 1 / self.width)
        return views, inputs, targets, weights, site.put(torch.arange(self.lanes)), torch.tensor(1)


class Compiler:
    """Compiles a trainer's steps on a flat_module, each kind once.

    most: how many clients a batch can have.  until: when to have ended, by `time.perf_counter`.
    used: what gives the gradients of steps now.
    """

    def __init__(
        self,
        trainer: Trainer,
        flat_module: FlatModule,
        data: FederatedData,
        most: int,
    ) -> None:
        self.trainer, self.flat_module = trainer, flat_module
        self.store, self.sizes, self.most = data.store, data.train_sizes, most
        self.until = math.inf
        self.made: dict[tuple[int, bool, int], SingleGradients | BatchedGradients | NotCompiled] = {}
        self.used: SingleGradients | BatchedGradients | None = None

    def use(self, lanes: int | None, lowered: bool = False) -> str | None:
        """Compiles the steps of so many lanes, or of none; why it cannot, as a phrase.

        lowered: whether batches train in low-rank form.
        """
        self.used, why = None, None
        try:
            if lanes is not None and lowered:
                raise NotCompiled("batches in low-rank form gain nothing by it")
            self.used = None if lanes is None else self._steps(lanes)
        except NotCompiled as error:
            why = str(error)
        return why

    @property
    def single(self) -> SingleGradients | None:
        """The compiled gradients of one client's steps, where these are used."""
        return self.used if isinstance(self.used, SingleGradients) else None

    @property
    def batched(self) -> BatchedGradients | None:
        """The compiled gradients of the steps of many clients at once, where these are used."""
        return self.used if isinstance(self.used, BatchedGradients) else None

    @property
    def trouble(self) -> str | None:
        """The failure of the compiled steps, in a sentence, if there is one."""
        if self.used is None or self.used.failed is None:
            return None
        return (
            f"Compiled steps fail ({self.used.failed}): from here on they are not compiled, which changes the last "
            "bits of what is learned."
        )

    def _steps(self, lanes: int) -> SingleGradients | BatchedGradients:
        """The gradients of so many lanes, for torch's threads of now; of one client, for images as the module has them.

        Raises:
            NotCompiled: saying why not.
        """
        name = (lanes, self.flat_module.channels_last, torch.get_num_threads())
        if name not in self.made:
            self.flat_module.module.train()
            try:
                self.made[name] = self._make_single() if lanes == 1 else self._make_batched(lanes)
            except NotCompiled as why:
                self.made[name] = why
        if isinstance(made := self.made[name], NotCompiled):
            raise made
        return made

    @property
    def widths(self) -> list[int]:
        """The sizes of batches that many of the local steps have, the most common first.

        Raises:
            NotCompiled: if there are none, or the trainer has no such steps.
        """
        trainer = self.trainer
        if (why := sequential_reason(self.flat_module)) is not None:
            raise NotCompiled(why)
        if not isinstance(trainer, LoopTrainer):
            raise NotCompiled(f"{type(trainer).__name__} has a loop of its own")
        options, term = trainer.plan.options, trainer.plan.loss_term
        if trainer.plan.privacy is not None:
            raise NotCompiled("gradients of single examples are not compiled")
        if term is not None:
            raise NotCompiled(f"{type(term).__name__} looks at each client's last model")
        steps: Counter[int] = Counter()
        for size, clients in zip(*(each.tolist() for each in self.sizes.unique(return_counts=True)), strict=True):
            for start, stop in options.bounds(options.training_count(size)):
                steps[stop - start] += clients
        least = LEAST_SHARE * steps.total()
        common = [width for width, count in steps.most_common(MOST_WIDTHS) if count >= least]
        if not common:
            raise NotCompiled("its batches have too many different sizes")
        return common

    def _make_single(self) -> SingleGradients:
        single = SingleGradients(self.flat_module)
        for width in self.widths:
            self._look_at_time()
            trials = [
                single.arguments(self.flat_module.to_memory_format(batch.inputs), batch.targets, 1, step)
                for step, batch in enumerate(self._batches(width))
            ]
            single.add(width, trials)
        return single

    def _make_batched(self, lanes: int) -> BatchedGradients:
        lanes, width = min(lanes, self.most), self.widths[0]
        batched = BatchedGradients(batch_gradients(self.flat_module), self.flat_module, lanes, width)
        self._look_at_time()
        batched.add(width, [batched.trial(batch.inputs, batch.targets) for batch in self._batches(lanes * width)])
        return batched

    def _batches(self, count: int) -> Iterator[Examples]:
        """Two batches of the store's examples, again from the first where there are too few."""
        for start in (0, count):
            yield self.flat_module.site.take(self.store, torch.arange(start, start + count) % len(self.store))

    def _look_at_time(self) -> None:
        if time.perf_counter() > self.until:
            raise NotCompiled("compiling takes longer than the run could save")


class CompiledProgram:
    """A function through `torch.compile`; made: how many times it was compiled.

    Of what torch looks at before each call only plain values and its own settings are looked at: number types and
    shapes stay the same, and the rest takes as long as a small model's step.
    """

    def __init__(self, function: Function) -> None:
        self.made = 0
        options = {"guard_filter_fn": lambda guards: [guard.guard_type in LOOKED_AT for guard in guards]}
        make: Callable[..., Function] = torch.compile
        self.function = make(_apart(function), backend=self._backend, fullgraph=True, dynamic=False, options=options)

    def __call__(self, *arguments: Any) -> Gradients:
        """The gradients, compiled at the first call."""
        made: Gradients = self.function(*arguments)
        return made

    def _backend(self, graph: torch.fx.GraphModule, inputs: list[Tensor], **_: object) -> Any:
        """Inductor; what draws from torch's generator draws as it does otherwise."""
        from torch._inductor.compile_fx import compile_fx

        if self.made > AGAIN:
            raise NotCompiled("torch would compile it again and again")
        self.made += 1
        with _quietly():
            return compile_fx(graph, inputs, config_patches={"fallback_random": True})


def _apart(function: Function) -> Function:
    """The same, with code of its own: torch counts by code how often it has compiled, and then gives up."""

    def call(*arguments: Any) -> Gradients:
        return function(*arguments)

    return FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)


@contextmanager
def _quietly() -> Iterator[None]:
    """Torch prints nothing, and compiles in this process: workers that are forked would share its helpers."""
    from torch._inductor import config

    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), config.patch(compile_threads=1):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _phrase(error: BaseException) -> str:
    """The reason why torch did not compile."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = getattr(cause, "inner_exception", None) or cause.__cause__ or cause.__context__
    for cause in causes:
        if isinstance(cause, NotCompiled):
            return str(cause)
        if type(cause).__name__ == "InvalidCxxCompiler":
            return "torch finds no C++ compiler here"
    first = next(iter(str(error).strip().splitlines()), "")
    summary = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return (
        f"torch cannot compile it ({summary if len(summary) <= MOST_LETTERS else summary[: MOST_LETTERS - 3] + '...'})"
    )
