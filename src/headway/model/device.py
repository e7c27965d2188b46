"""The device on which clients train, this computer's processor or a GPU, and its precision.

On a GPU lies all that a client works with: the model, the round's message, the examples, what stages see of the
client.  Between the steps of a client, or of a batch of clients, nothing is read back, so that the processor runs ahead
and the GPU never waits.  Numbers that are known beforehand (learning rates, sizes, counts) stay with the processor.
What the clients' updates add up to leaves the GPU once for each group of clients: the exact sum reads its bins again
and again, and belongs to the server, whose state and message stay in main memory.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from headway.core.chain import Labelled
from headway.core.errors import ConfigError
from headway.core.update import Tensors
from headway.data import Examples
from headway.protocol.messages import Message

Precision = Literal["float32", "tf32", "bfloat16"]
Setting = tuple[Any, str, object]
RESIDENT = 0.5  # the share of a GPU's free memory that the examples may take, to lie there for the whole run
AMPERE = (8, 0)  # the first GPUs that multiply in TF32 and bfloat16


@dataclass(frozen=True, slots=True)
class Device:
    """A device and the precision of the products in training.

    float32: no number is rounded; torch's own default for convolutions on a GPU is TF32.  tf32: products of float32
    numbers that are rounded to 10 bits of mantissa, sums in float32.  bfloat16: the model's forward pass by torch's
    autocast, and so its gradients; the loss, the parameters, the steps and all updates stay float32.
    """

    device: torch.device = torch.device("cpu")
    precision: Precision = "float32"

    @classmethod
    def named(cls, device: str, precision: str) -> Device:
        """The device of this name.

        Raises:
            ConfigError: if there is no such device here, or no such precision there.
        """
        if precision not in get_args(Precision):
            raise ConfigError(f"precision must be one of {', '.join(get_args(Precision))}, found {precision!r}.")
        if not isinstance(device, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", device):
            raise ConfigError(
                f'device must be "cpu", "cuda" or "cuda:N", N being the number of a GPU, found {device!r}.'
            )
        if device == "cpu":
            if precision != "float32":
                raise ConfigError(
                    f'precision = "{precision}" needs a GPU, found device = "cpu", which has no use for it: leave it '
                    'out, or set device = "cuda".'
                )
            return cls()
        found = _gpu(device)
        if precision != "float32" and (able := torch.cuda.get_device_capability(found)) < AMPERE:
            raise ConfigError(
                f'precision = "{precision}" needs a GPU of compute capability 8.0 or above, found '
                f"{torch.cuda.get_device_name(found)} with {able[0]}.{able[1]}: leave it out."
            )
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # so that products repeat to the bit
        return cls(found, precision)  # type: ignore[arg-type]

    @property
    def on_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == "cuda"

    @property
    def moves(self) -> bool:
        """Whether clients train elsewhere than where messages and memory lie, so that these are copied."""
        return self.device.type != "cpu"

    @property
    def name(self) -> str:
        """The device by its type and model, and the precision where there is a choice."""
        if not self.on_gpu:
            return self.device.type
        return f"{self.device.type} ({torch.cuda.get_device_name(self.device)}), {self.precision}"

    @property
    def versions(self) -> dict[str, str]:
        """The other settings that fix a run's numbers."""
        if not self.on_gpu:
            return {}
        return {"cuda": str(torch.version.cuda or torch.version.hip), "gpu": torch.cuda.get_device_name(self.device)}

    def check(self, number: torch.dtype) -> None:
        """Refuses a precision that a model of this number type has no use for.

        Raises:
            ConfigError: saying so.
        """
        if self.precision != "float32" and number != torch.float32:
            raise ConfigError(
                f'precision = "{self.precision}" needs a task of dtype = "float32", found '
                f'"{str(number).removeprefix("torch.")}": leave one of them out.'
            )

    # tensors --------------------------------------------------------------------------------------------

    def holds(self, tensor: Tensor) -> bool:
        """Whether the tensor lies on this device."""
        return tensor.device == self.device

    def put(self, tensor: Tensor) -> Tensor:
        """The tensor on this device.  A copy to a GPU goes through pinned memory, without waiting."""
        if self.holds(tensor):
            return tensor
        return (tensor.contiguous().pin_memory() if self.on_gpu else tensor).to(self.device, non_blocking=True)

    def examples(self, examples: Examples) -> Examples:
        """The examples on this device."""
        if self.holds(examples.inputs):
            return examples
        return Examples(self.put(examples.inputs), self.put(examples.targets))

    def index_on_store_device(self, examples: Examples, index: Tensor) -> Tensor:
        """The index where the examples are that it chooses from."""
        return self.put(index) if self.holds(examples.inputs) else index

    def take(self, examples: Examples, index: Tensor) -> Examples:
        """The examples at these places, on this device."""
        return self.examples(examples.take(self.index_on_store_device(examples, index)))

    def tensors(self, named: Tensors) -> dict[str, Tensor]:
        """All tensors on this device."""
        return {name: self.put(tensor) for name, tensor in named.items()}

    def labelled(self, kept: Labelled) -> dict[str, Tensors]:
        """Named tensors of each stage, on this device."""
        return {label: self.tensors(named) for label, named in kept.items()}

    def message(self, message: Message) -> Message:
        """The message on this device."""
        if self.holds(message.params):
            return message
        buffers = None if message.buffers is None else self.put(message.buffers)
        return Message(self.put(message.params), self.labelled(message.stages), buffers)

    def place_dataset(self, store: Examples) -> Examples:
        """The examples for a whole run: here, if they fit in `RESIDENT` of what is free, and where they are if not."""
        free = self.room()
        if free is None or store.inputs.nbytes + store.targets.nbytes > RESIDENT * free:
            return store
        return Examples(store.inputs.to(self.device), store.targets.to(self.device))

    # memory and time ------------------------------------------------------------------------------------

    def room(self) -> int | None:
        """How many bytes a GPU has left, including what torch keeps for itself; `None` of main memory."""
        if not self.on_gpu:
            return None
        kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return torch.cuda.mem_get_info(self.device)[0] + kept

    def peak(self, act: Callable[[], object]) -> int:
        """How many bytes of a GPU the act needs at most, beyond what was taken before."""
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        act()
        return torch.cuda.max_memory_allocated(self.device) - before

    def empty_cache(self) -> None:
        """Gives back what torch keeps of a GPU's memory without using it."""
        if self.on_gpu:
            torch.cuda.empty_cache()

    def wait(self) -> None:
        """Until all is done that was begun: before a clock is read."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    # torch's own settings -------------------------------------------------------------------------------

    def seed(self, seed: int) -> None:
        """Seeds torch's own generators that a model may draw from."""
        for generator in self.generators:
            generator.manual_seed(seed)

    @property
    def generators(self) -> list[torch.Generator]:
        """Torch's own generators that a model may draw from."""
        here = [torch.cuda.default_generators[self.device.index]] if self.on_gpu else []
        return [torch.default_generator, *here]

    def rng_state(self) -> tuple[Tensor, ...]:
        """The state of these generators."""
        here = (torch.cuda.get_rng_state(self.device),) if self.on_gpu else ()
        return (torch.get_rng_state(), *here)

    def set_rng_state(self, drawn: tuple[Tensor, ...]) -> None:
        """Sets them back to where they were."""
        torch.set_rng_state(drawn[0])
        for state in drawn[1:]:
            torch.cuda.set_rng_state(state, self.device)

    def training(self) -> AbstractContextManager[None]:
        """Torch's settings for training on a GPU, put back at the end: the precision, and convolutions that repeat to
        the bit.  Of torch's few other kernels that add in no fixed order none is forbidden: that is
        `torch.use_deterministic_algorithms`, which is the user's, and makes some operations wait."""
        return _set(_settings(self.precision) if self.on_gpu else [])

    def evaluating(self) -> AbstractContextManager[None]:
        """The same for evaluation, which is in float32 whatever training is in."""
        return _set(_settings("float32") if self.on_gpu else [])

    def narrow(self, module: nn.Module) -> None:
        """Lets the model multiply in bfloat16 while it trains, if that is the precision."""
        if self.precision == "bfloat16":
            module.forward = _Narrow(module, self.device.type)


class _Narrow:
    """Stands in for the forward method of a model."""

    def __init__(self, module: nn.Module, device: str) -> None:
        self.module, self.forward, self.device = module, module.forward, device

    def __call__(self, *args: Any, **options: Any) -> Any:
        if not self.module.training:
            return self.forward(*args, **options)
        with torch.autocast(self.device, torch.bfloat16, cache_enabled=False):
            outputs = self.forward(*args, **options)
        return outputs.float() if isinstance(outputs, Tensor) else outputs  # of a dict, what is selected is


@contextmanager
def _set(settings: list[Setting]) -> Iterator[None]:
    before = [(holder, name, getattr(holder, name)) for holder, name, _ in settings]
    try:
        for holder, name, value in settings:
            setattr(holder, name, value)
        yield
    finally:
        for holder, name, value in before:
            setattr(holder, name, value)


def _settings(precision: Precision) -> list[Setting]:
    """Torch's settings: holder, name, value."""
    cuda, cudnn = torch.backends.cuda.matmul, cast(Any, torch.backends.cudnn)
    tf32 = precision == "tf32"
    repeat = [(cudnn, "deterministic", True), (cudnn, "benchmark", False)]
    if not hasattr(cuda, "fp32_precision"):  # before torch 2.9
        return [*repeat, (cuda, "allow_tf32", tf32), (cudnn, "allow_tf32", tf32)]
    number = "tf32" if tf32 else "ieee"
    return [*repeat, *((holder, "fp32_precision", number) for holder in (cuda, cudnn.conv, cudnn.rnn))]


def _gpu(device: str) -> torch.device:
    """The GPU of this name.

    Raises:
        ConfigError: saying what torch has instead.
    """
    with warnings.catch_warnings():  # torch warns of a missing driver, which the error below names
        warnings.simplefilter("ignore")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        version = torch.version.cuda or torch.version.hip
        built = (
            f"is built for CUDA {version}, but finds no GPU or no driver for it" if version else "is built without CUDA"
        )
        do = "look whether nvidia-smi shows a GPU here" if version else "install a torch that is built with CUDA"
        raise ConfigError(
            f'device = "{device}" needs a GPU, found none: torch {torch.__version__} {built}. It is caused by this '
            f'installation: {do}, or set device = "cpu".'
        )
    index = int(device.partition(":")[2] or torch.cuda.current_device())
    if index >= count:
        has = "one GPU, cuda:0" if count == 1 else f"{count} GPUs, cuda:0 to cuda:{count - 1}"
        raise ConfigError(f'device = "{device}" needs a GPU of that number, found {has}: choose one that is there.')
    return torch.device("cuda", index)
