"""The number of clients side by side that fit in a GPU's memory."""

from __future__ import annotations

from functools import partial

import torch

from headway.data.dataset.client_index import ClientIndex
from headway.engines.executors.batch_result import OutOfDeviceMemory
from headway.engines.group_runner import GroupRunner

FEW, MORE = 2, 8  # lanes that are rehearsed
SHARE = 0.8  # of what is free: the rest is for what torch cannot use in pieces, and for evaluation


def max_batch_clients(groups: GroupRunner, wanted: int) -> int:
    """At most as many lanes as are wanted, by what two small batches of the largest clients need.

    All that a lane takes (parameters, gradients, velocity, activations, examples) is its own, so with n(w) the bytes
    that w lanes need at most, and m those that are free,

        n(w) = n(2) + (w - 2) (n(8) - n(2)) / 6 <= 0.8 m

    What is rehearsed is forgotten, and changes no random number.
    """
    setup = groups.setup
    device = setup.device
    room, more = device.room(), min(MORE, wanted)
    if room is None or groups.execution.batched.reason is not None or more <= FEW:
        return wanted
    train = ClientIndex.of(setup.job.data.train)
    largest = torch.topk(train.sizes, min(more, len(train.sizes))).indices.tolist()
    clients = [train.names[place] for place in largest]
    if len(clients) <= FEW:
        return wanted
    ask, before = setup.first_ask(clients), device.rng_state()
    try:
        groups.rehearse(ask, clients[:FEW])  # what libraries take once, they take now
        few = device.peak(partial(groups.rehearse, ask, clients[:FEW]))
        most = device.peak(partial(groups.rehearse, ask, clients))
    except OutOfDeviceMemory:
        return FEW
    finally:
        device.set_rng_state(before)
    each = max((most - few) / (len(clients) - FEW), 1.0)
    return max(1, min(wanted, int(FEW + (SHARE * room - few) / each)))
