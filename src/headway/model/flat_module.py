"""One model whose parameters lie in one flat vector, used for client after client."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from headway.core.errors import ConfigError
from headway.core.layout import Layout
from headway.model.attributes import Attributes
from headway.model.device import Device
from headway.model.dropout import Draws
from headway.model.outputs import Selection
from headway.model.random_state import outside, rewind_outside, seed_outside
from headway.model.task import Task, floating_buffers, frozen_tensors, shared_parameters, still_norms, without_graph
from headway.numerics.keys import Key

Drawn = tuple[tuple[Tensor, ...], Any]
Room = Callable[[str, Sequence[int], torch.dtype], Tensor]  # memory to write into, by purpose: see `FlatModule.scratch`


class FlatModule:
    """A module bound to flat vectors: writing a vector is loading a model, and nothing is copied per tensor.

    layout, shared: the shared parameters, and their vector `[P]`; shared_slices: the piece of each of them.
    personal: those that stay with the client, `[Q]`.  statistics: the floating-point buffers, `[B]`.
    frozen: the parameters that no client trains, and the statistics of frozen normalising layers, by name.
    draws: what its dropout modules draw from.  site: where all of it lies; the initial weights do not depend on it.
    moves: whether messages, memory and examples lie elsewhere.
    channels_last: whether it is given images `[B, C, H, W]` with the channels of a pixel next to each other in memory,
    which convolutions may like better; the numbers agree to rounding.
    attributes: Python attributes of its modules, which start anew with each model that is loaded.
    still: the normalising layers whose statistics do not move, since they are frozen.
    keeps: the names of attributes that change when it is called.  outside: whether it draws from NumPy's or Python's
    own generator.  `module_checks.examine` determines both.  own_code: whether a trainer, stage, loss or metric
    may, which is not Headway's.
    """

    def __init__(self, task: Task, key: Key, site: Device | None = None) -> None:
        self.task, self.site = task, site or Device()
        self.moves = self.site.moves
        self.module = task.build(key).to(self.site.device)
        self.attributes, self._generators = Attributes(self.module), self.site.generators
        self.keeps: tuple[str, ...] = ()
        self.outside = self.own_code = False
        self._copying: RemovableHandle | None = None
        self._still = still_norms(self.module)
        self.still = tuple(name for name, part in self.module.named_modules() if part in self._still)
        for part in self._still:
            part.eval().train = _stays(part)  # type: ignore[method-assign]
        self.draws = Draws(self.module)
        self.site.narrow(self.module)
        select = None if task.output is None else Selection(task.output, task.number)
        self._selection = None if select is None else self.module.register_forward_hook(select)
        self.channels_last = False
        chosen = shared_parameters(self.module, task.shared)
        others = {
            name: parameter
            for name, parameter in self.module.named_parameters()
            if parameter.requires_grad and name not in chosen
        }
        self.frozen = frozen_tensors(self.module)
        self.layout, self.shared = _bind(chosen, task.number)
        self.shared_slices = self.layout.slices(self.shared)
        _, self.personal = _bind(others, task.number)
        self._registered = [(part._buffers, dict(part._buffers)) for part in self.module.modules()]
        self._buffers = floating_buffers(self.module)
        self._variances = [each for name, each in self._buffers.items() if name.rpartition(".")[2] == "running_var"]
        self._buffer_layout = Layout.of(self._buffers)
        self.parameters: list[nn.Parameter] = [*chosen.values(), *others.values()]
        self.shared_count = len(chosen)
        self._scratch: dict[str, Tensor] = {}
        self._copy: nn.Module | None = None
        self._counters = {n: b for n, b in self.module.named_buffers() if n not in self._buffers}
        self._initial_counters = {name: buffer.clone() for name, buffer in self._counters.items()}
        self.initial_personal = self.personal.clone()
        self.initial_statistics = self.statistics()

    def load(self, params: Tensor, personal: Tensor | None, statistics: Tensor | None) -> None:
        """Takes in a model; what is not given starts from its initial values, and so do the buffers that are
        neither averaged nor kept (of whole numbers, not persistent, of frozen layers) and Python attributes.  A
        variance below 0 counts as 0."""
        if self.attributes.places:
            self.attributes.restore()
        self._settle_buffers()
        self.shared.copy_(params)
        for name, counter in self._counters.items():
            counter.copy_(self._initial_counters[name])
        if self.personal.numel():
            self.personal.copy_(self.initial_personal if personal is None else personal)
        if self._buffers:
            values = self.initial_statistics if statistics is None else statistics
            for name, value in self._buffer_layout.views(values).items():
                self._buffers[name].copy_(value)
            for variance in self._variances:
                variance.clamp_(min=0)  # noise on averaged statistics may have turned one negative

    def to_memory_format(self, inputs: Tensor) -> Tensor:
        """A batch as the model takes it."""
        if not self.channels_last or inputs.ndim != 4:
            return inputs
        _, channels, height, width = inputs.shape
        strides = (channels * height * width, 1, width * channels, channels)  # of one channel too, where torch is free
        return torch.empty_strided(inputs.shape, strides, dtype=inputs.dtype, device=inputs.device).copy_(inputs)

    def copy_inputs(self) -> None:
        """From now on the model is called with copies of its inputs, since it writes into them."""
        if self._copying is None:
            self._copying = self.module.register_forward_pre_hook(_copied)

    def seed(self, seed: int) -> None:
        """Seeds what a model may draw from, apart from its dropout modules."""
        for generator in self._generators:
            generator.manual_seed(seed)
        if self.attributes.seeders:
            self.attributes.seed(seed)
        if self.outside or self.own_code:
            seed_outside(seed)

    @property
    def seeds_outside(self) -> bool:
        """Whether NumPy's and Python's generators are seeded for each client."""
        return self.outside or self.own_code

    def _settle_buffers(self) -> None:
        """Values that the model has put in the place of its buffers go into the buffers themselves.

        Raises:
            ConfigError: if such a value has another shape.
        """
        for owner, registered in self._registered:
            for name, held in registered.items():
                if (now := owner.get(name)) is held:
                    continue
                if held is not None and now is not None:
                    if now.shape != held.shape:
                        raise ConfigError(
                            f"the model's buffer {name!r} has shape {list(held.shape)} when it is made and "
                            f"{list(now.shape)} after a call, and what is exchanged needs one shape: register it with "
                            "its final shape."
                        )
                    held.copy_(now.detach())
                owner[name] = held
            for name in owner.keys() - registered.keys():
                del owner[name]

    def statistics(self) -> Tensor:
        """The buffers as a fresh vector `[B]`."""
        self._settle_buffers()
        return self._buffer_layout.flatten(self._buffers).clone()

    def scratch(self, purpose: str, shape: Sequence[int], number: torch.dtype) -> Tensor:
        """A tensor of this shape to write into, whose memory is used again for the next client or batch: what the
        system gives anew it gives page by page, which takes longer than to write it."""
        wanted = math.prod(shape) * number.itemsize
        if purpose not in self._scratch or self._scratch[purpose].numel() < wanted:
            self._scratch.pop(purpose, None)  # lets go of the old memory before taking the new
            self._scratch[purpose] = torch.empty(wanted, dtype=torch.uint8, device=self.site.device)
        return self._scratch[purpose][:wanted].view(number).view(*shape)

    @property
    def scratch_bytes(self) -> int:
        """How much memory `scratch` has taken so far."""
        return sum(held.numel() for held in self._scratch.values())

    def rng_state(self) -> Drawn:
        """The state of the generators that the model may draw from."""
        return self.site.rng_state(), outside() if self.seeds_outside else None

    def set_rng_state(self, drawn: Drawn) -> None:
        """Sets them back to where they were."""
        self.site.set_rng_state(drawn[0])
        if drawn[1] is not None:
            rewind_outside(drawn[1])

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of all that training changes: shared and personal parameters, and every buffer, integers too."""
        return {name: tensor.clone() for name, tensor in self._changing().items()}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Puts a snapshot back, and attributes as they were made."""
        self.attributes.restore()
        for name, tensor in self._changing().items():
            tensor.copy_(snapshot[name])

    def _changing(self) -> dict[str, Tensor]:
        self._settle_buffers()
        buffers = {f"buffer {name}": buffer for name, buffer in self.module.named_buffers()}
        return {"shared": self.shared, "personal": self.personal, **buffers}

    def frozen_copy(self) -> nn.Module:
        """A copy of the model as it is now, in evaluation mode, which training the model does not change.

        There is one: the next call writes over it.
        """
        if self._copy is None:
            self._copy = copy.deepcopy(without_graph(self.module)).eval().requires_grad_(False)
            self._copy_attributes = Attributes(self._copy)
        self._copy_attributes.restore()
        self._copy.load_state_dict(self.module.state_dict())
        return self._copy

    def release(self) -> nn.Module:
        """The module with the model that is in it, for use without it: its dropout is torch's own again, and it
        returns all that it returns."""
        self.draws.release()
        if self._selection is not None:
            self._selection.remove()
        if self._copying is not None:
            self._copying.remove()
            self._copying = None
        for part in self._still:
            del part.train
        self._still = []
        return self.module

    @property
    def has_statistics(self) -> bool:
        """Whether the model keeps floating-point buffers."""
        return bool(self._buffers)

    @property
    def keeps_statistics(self) -> bool:
        """Whether these statistics stay with each client."""
        return self.has_statistics and self.task.buffers == "local"

    @property
    def parts_text(self) -> str:
        """How many numbers are shared, averaged and kept by each client, in a phrase."""
        parts = [f"{self.layout.size:,} shared parameters"]
        if self.personal.numel():
            parts.append(f"{self.personal.numel():,} that stay with each client")
        if self.has_statistics:
            how = "averaged" if self.task.buffers == "average" else "kept by each client"
            parts.append(f"{self._buffer_layout.size:,} statistics {how}")
        return ", ".join(parts)

    @property
    def statistics_layout(self) -> Layout:
        """The place of each buffer in `statistics`."""
        return self._buffer_layout


def _bind(parameters: dict[str, nn.Parameter], number: torch.dtype) -> tuple[Layout, Tensor]:
    """Moves the parameters' storage into one vector, and returns it."""
    layout = Layout.of({name: parameter.detach() for name, parameter in parameters.items()})
    vector = layout.flatten({name: p.detach() for name, p in parameters.items()}).to(number)
    for name, view in layout.views(vector).items():
        parameters[name].data = view
    return layout, vector


def _copied(_: nn.Module, inputs: tuple[object, ...]) -> tuple[object, ...]:
    """Copies of inputs, for a model that writes into them."""
    return tuple(given.clone() if isinstance(given, Tensor) else given for given in inputs)


def _stays(part: nn.Module) -> Callable[..., nn.Module]:
    """Stands in for `train` of a layer whose statistics do not move."""
    return lambda mode=True: part
