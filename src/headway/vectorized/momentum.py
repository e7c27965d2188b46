"""The factor of each local gradient in the clients' deltas, where steps are linear in the gradients."""

from __future__ import annotations

import torch
from torch import Tensor


class MomentumCoefficients:
    """The coefficients A of clients that move by SGD with momentum, pulled back to where they started.

    With `w_t - w_0 = -sum_s A_s g_s` before step t, mu the strength of the pull and e_t the t-th unit vector:

        u = e_t - mu A;    v <- momentum v + u;    A <- A + lr v        (nesterov: lr (u + momentum v))

    Shapes, C clients and K steps: moved (the A of each) and velocity `[C, K]`; changes, what each step added to A,
    `[C, K, K]`; all float64.
    """

    def __init__(self, clients: int, steps: int, momentum: float, nesterov: bool, pull: float) -> None:
        self.momentum, self.nesterov, self.pull = momentum, nesterov, pull
        self.moved = torch.zeros(clients, steps, dtype=torch.float64)
        self.velocity = torch.zeros_like(self.moved)
        self.changes = torch.zeros(clients, steps, steps, dtype=torch.float64)

    def step(self, clients: slice, number: int, rates: Tensor) -> None:
        """One more step of these clients, with their learning rates `[C]`."""
        unit = self.moved[clients] * -self.pull
        unit[:, number] += 1
        velocity = self.velocity[clients].mul_(self.momentum).add_(unit)
        along = unit + self.momentum * velocity if self.nesterov else velocity
        change = rates.double().unsqueeze(1) * along
        self.moved[clients] += change
        self.changes[clients, number] = change
