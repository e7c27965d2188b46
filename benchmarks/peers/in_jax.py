"""What the contenders in JAX share: the models, and how weights come from torch's layout and go back to it.

On the CNN, one gradient in float32 is that of PyTorch in float64 to 1e-6; PyTorch's own in float32 differs by 1e-3 in
the convolutions, where two numbers under one max-pool are nearly equal.  So the weights of W2 agree less closely.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from common import Workload, flatten, unflatten

Weights = list[jax.Array]


def from_torch(flat: np.ndarray, workload: Workload) -> Weights:
    """A list of weights: dense `[in, out]`, convolutions `[height, width, in, out]`, biases."""
    return [jnp.asarray(each.transpose(_order(each.ndim))) for each in unflatten(flat, workload)]


def to_torch(weights: Weights) -> np.ndarray:
    """The weights in one vector, in torch's layout."""
    return flatten([np.asarray(each).transpose(np.argsort(_order(each.ndim))) for each in weights])


def _order(axes: int) -> tuple[int, ...]:
    return {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}[axes]


def logits(weights: Weights, inputs: jax.Array) -> jax.Array:
    """The model's outputs, whichever model it is: convolutions first, then dense layers, ReLU between them."""
    x = jnp.moveaxis(inputs, 1, -1) if inputs.ndim == 4 else inputs
    layers = list(zip(weights[::2], weights[1::2], strict=True))
    for weight, bias in layers:
        if weight.ndim == 4:
            x = jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).max((2, 4))
            x = jax.nn.relu(x + bias)
        else:
            if x.ndim == 4:
                x = jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1)  # flattened as torch does
            x = x @ weight + bias
            x = x if weight is weights[-2] else jax.nn.relu(x)
    return x


def losses(weights: Weights, inputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The cross entropy of each example."""
    scores = jax.nn.log_softmax(logits(weights, inputs))
    return -jnp.take_along_axis(scores, targets[:, None], axis=1)[:, 0]
