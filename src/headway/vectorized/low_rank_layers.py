"""Linear layers of many clients at once, in the two forms in which what a client has learned can be held.

What a layer of client c gives is the broadcast weights' product, one for all clients, and a part of its own:

    W_c x + b_c = (W_0 x + b_0) + (dW_c x + db_c)

`OuterProductDelta` holds dW_c as outer products, a pair of vectors for each example that was seen; `DenseDelta` as a
matrix.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from headway.data.dataset.batches import starts_of
from headway.model.flat_module import Room

LARGE = 1 << 14  # numbers of a client beyond which a product of its own is worth a call


class Layer(ABC):
    """One linear layer of C clients, which the model calls in the place of its own; u is the gradient of the clients'
    mean losses with respect to what comes out."""

    def __init__(self, name: str, part: nn.Linear) -> None:
        self.name, self.part = name, part
        self._out: Tensor | None = None

    def expect(self, lanes: slice, number: int, width: int) -> None:
        """The next batch is these clients' step of this number, with so many rows of each."""
        self.lanes, self.number, self.width = lanes, number, width
        self.active = lanes.stop - (lanes.start or 0)
        self._out = None

    def __call__(self, x: Tensor) -> Tensor:
        """The outputs for `[C * B, in]`, each client's rows by its own weights."""
        if x.ndim != 2 or len(x) != self.active * self.width or self._out is not None:
            raise RuntimeError(f"the layer {self.name} is not called once, on a row for each example")
        out = self._given(x.view(self.active, self.width, -1)).view(len(x), -1)
        self._out = out if out.requires_grad else out.requires_grad_()
        return self._out

    def out(self) -> Tensor:
        """The outputs of the last call."""
        if self._out is None:
            raise RuntimeError(f"the layer {self.name} is not called")
        return self._out

    def learn(self, errors: Tensor, rates: Tensor) -> Tensor | None:
        """Takes u `[C * B, out]` and the learning rates `[C]`; see `_learned`."""
        self._out = None
        return self._learned(errors.view(self.active, self.width, -1), rates)

    def _base(self, x: Tensor) -> Tensor:
        """The outputs of the broadcast weights for rows `[C, B, in]`."""
        weight, rows = self.part.weight.detach(), x.flatten(0, 1)
        bias = None if self.part.bias is None else self.part.bias.detach()
        if x.requires_grad:
            base = functional.linear(rows, weight, bias)
        else:
            base = product(rows, weight)
            base = base if bias is None else base.add_(bias)
        return base.view(*x.shape[:2], -1)

    @abstractmethod
    def _given(self, x: Tensor) -> Tensor:
        """The outputs for rows `[C, B, in]`."""

    @abstractmethod
    def _learned(self, errors: Tensor, rates: Tensor) -> Tensor | None:
        """Takes u `[C, B, out]`; the inner products of this step's gradient with those so far, float64 `[C, K']`, if
        they are needed for how far clients have moved."""

    @abstractmethod
    def squares(self) -> Tensor | None:
        """The squared length of each client's change, float64 `[C]`, where inner products do not give it."""

    @abstractmethod
    def summed(self, moved: Tensor, factors: Tensor) -> dict[str, Tensor]:
        """`sum_c f_c (dW_c, db_c)` by the parameters' names, from what each step's gradient counts `[C, K]` and the
        factors f `[C]`."""

    def _named(self, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
        prefix = f"{self.name}." if self.name else ""
        named = {f"{prefix}weight": weight}
        return named if self.part.bias is None else {**named, f"{prefix}bias": bias}


class OuterProductDelta(Layer):
    """`dW_c = -sum_r a_r u_r x_r^T`: what came into the layer, `[C, n, in]`, and u of each example, `[C, n, out]`.

    widths: the rows of each step.  What comes into the model's first layer does not depend on what was learned, so that
    all of its products of inputs can be made at once: `foresee`.
    """

    def __init__(self, name: str, part: nn.Linear, lanes: int, widths: Sequence[int], room: Room) -> None:
        super().__init__(name, part)
        self.room = room
        self.starts = starts_of(widths)
        steps = torch.repeat_interleave(torch.arange(len(widths)), torch.tensor(widths))
        self.steps = steps.to(part.weight.device)
        self.errors = room(f"errors {name}", (lanes, len(steps), part.out_features), part.weight.dtype).zero_()
        self.one = 0.0 if part.bias is None else 1.0
        self.inputs = self.inner = self.errors[..., :0]
        self.foreseen: tuple[Tensor, Tensor] | None = None

    def count(self, moved: Tensor) -> None:
        """Before a batch: what the gradients of the steps so far count in it, `[C, K]`."""
        self.counts = moved[:, self.steps[: self.starts[self.number]]].to(self.errors.dtype).unsqueeze(1)

    def foresee(self, x: Tensor) -> None:
        """Takes all that will come in, `[C * n, in]`, each client's rows in the order of its steps."""
        self.inputs = x.view(*self.errors.shape[:2], -1)
        self.foreseen = self._base(self.inputs), gram_each(self.inputs).add_(self.one)

    def _given(self, x: Tensor) -> Tensor:
        start = self.starts[self.number]
        stop = start + self.width
        if self.foreseen is None:
            if not start:
                self._make_room()
            self.inputs[self.lanes, start:stop] = x.detach()
            base, inner = self._base(x), x @ self.inputs[self.lanes, :stop].mT + self.one
        else:
            base, inner = (part[self.lanes, start:stop] for part in self.foreseen)
        self.inner = inner[..., :stop].detach()
        if not start:
            return base.contiguous()
        return base - (inner[..., :start] * self.counts) @ self.errors[self.lanes, :start]

    def _make_room(self) -> None:
        """For what comes in, the first time that something does."""
        if not self.inputs.numel():
            shape = (*self.errors.shape[:2], self.part.in_features)
            self.inputs = self.room(f"inputs {self.name}", shape, self.errors.dtype).zero_()

    def _learned(self, errors: Tensor, rates: Tensor) -> Tensor:
        start = self.starts[self.number]
        stop = start + self.width
        self.errors[self.lanes, start:stop] = errors
        rows = (errors @ self.errors[self.lanes, :stop].mT).mul_(self.inner).sum(1, dtype=torch.float64)
        if rows.is_cuda:  # which adds by an index in no fixed order
            return rows @ functional.one_hot(self.steps[:stop], self.number + 1).to(rows)
        return rows.new_zeros(len(rows), self.number + 1).index_add_(1, self.steps[:stop], rows)

    def squares(self) -> None:
        """`None`: the inner products give it."""

    def summed(self, moved: Tensor, factors: Tensor) -> dict[str, Tensor]:
        """One product of all clients' rows."""
        weights = (moved * -factors.unsqueeze(1)).to(self.errors)[:, self.steps]
        errors = (self.errors * weights.unsqueeze(2)).flatten(0, 1)
        return self._named(product(errors.T, self.inputs.flatten(0, 1).T), errors.sum(0))


class DenseDelta(Layer):
    """dW_c written down, `[C, out, in]`, and db_c, `[C, out]`; for plain steps, `dW_c <- dW_c - lr sum_r u_r x_r^T`."""

    def __init__(self, name: str, part: nn.Linear, lanes: int, room: Room) -> None:
        super().__init__(name, part)
        number = part.weight.dtype
        self.weight = room(f"weight {name}", (lanes, *part.weight.shape), number).zero_()
        self.bias = room(f"bias {name}", (lanes, 1, part.out_features), number).zero_()
        self.rows = self.weight

    def _given(self, x: Tensor) -> Tensor:
        self.rows, base = x.detach(), self._base(x)
        if not self.number:
            return base
        return torch.baddbmm(base + self.bias[self.lanes], x, self.weight[self.lanes].mT)

    def _learned(self, errors: Tensor, rates: Tensor) -> None:
        errors = errors * rates.to(errors.dtype).view(-1, 1, 1)
        self.weight[self.lanes].baddbmm_(errors.mT, self.rows, alpha=-1)
        if self.part.bias is not None:
            self.bias[self.lanes] -= errors.sum(1, keepdim=True)

    def squares(self) -> Tensor:
        """Of weights and biases."""
        lengths = [torch.linalg.vector_norm(each.flatten(1), dim=1) for each in (self.weight, self.bias)]
        return torch.stack(lengths).double().square().sum(0)

    def summed(self, moved: Tensor, factors: Tensor) -> dict[str, Tensor]:
        """A weighted sum of the matrices."""
        factors = factors.to(self.weight)
        return self._named(torch.tensordot(factors, self.weight, 1), torch.tensordot(factors, self.bias, 1).flatten())


@contextmanager
def in_place(layers: Sequence[Layer | Stop]) -> Iterator[None]:
    """The model calls these instead of its own layers."""
    for layer in layers:
        layer.part.forward = layer  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for layer in layers:
            del layer.part.forward


class Reached(Exception):
    """The model has called its first layer on these rows."""

    def __init__(self, layer: Layer, rows: Tensor) -> None:
        super().__init__(layer.name)
        self.layer, self.rows = layer, rows


class Stop:
    """Ends a model's forward pass where it calls this layer."""

    def __init__(self, layer: Layer) -> None:
        self.layer, self.part = layer, layer.part

    def __call__(self, x: Tensor) -> Tensor:
        """Goes no further.

        Raises:
            Reached: always.
        """
        raise Reached(self.layer, x)


def gram_each(rows: Tensor) -> Tensor:
    """`X_c X_c^T` of each client's rows, `[C, n, n]` from `[C, n, in]`."""
    if rows.shape[1] * rows.shape[2] < LARGE or not fast_products(rows):
        return rows @ rows.mT
    return torch.stack([product(each, each) for each in rows])


def product(one: Tensor, other: Tensor) -> Tensor:
    """`A B^T` of matrices `[m, k]` and `[n, k]`, by whichever library is faster; without gradients.

    In single precision oneDNN has more than twice the speed of MKL on processors that are not Intel's; torch has no
    public name for it, so where it is not found, or refuses, the usual product is taken.
    """
    if fast_products(one):
        try:
            return cast(Tensor, torch.ops.mkldnn._linear_pointwise(one, other, None, "none", [], ""))
        except (AttributeError, RuntimeError):
            pass
    return one @ other.T


def fast_products(tensor: Tensor) -> bool:
    """Whether oneDNN multiplies such numbers."""
    return tensor.dtype == torch.float32 and tensor.is_cpu and torch.backends.mkldnn.is_available()
