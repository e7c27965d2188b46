"""The shares of a cohort that workers evaluate: a pure function of the cohort and its clients' sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from headway.client.evaluation import BATCH, Window

SHARES = 16  # of a cohort, as long as each has a batch of examples


def shares_of(cohort: Sequence[str], sizes: Tensor) -> Iterator[tuple[list[str], int, Window]]:
    """The clients that a worker needs for each share, the place of the first of them in the cohort, and the window.

    Neighbours of a share whose examples lie in one batch with its own come with it, so that batches are those of the
    cohort evaluated whole, to the bit.

    sizes: the number of each client's examples, `[C]`.

    >>> [(clients, window.first, window.stop) for clients, _, window in shares_of(["a", "b"], torch.tensor([900, 200]))]
    [(['a', 'b'], 0, 2)]
    """
    ends = sizes.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    width = max(BATCH, -(-total // SHARES))
    begins = ends - sizes
    share = torch.div(begins, width, rounding_mode="floor")
    counts = torch.unique_consecutive(share, return_counts=True)[1].tolist()
    first = 0
    for count in counts:
        stop = first + count
        batch_begin = int(begins[first]) // BATCH * BATCH
        batch_end = min(-(-int(ends[stop - 1]) // BATCH) * BATCH, total)
        lead = int(torch.searchsorted(ends, batch_begin, right=True))
        lead = min(lead, first)
        last = max(stop, int(torch.searchsorted(ends, batch_end)) + 1)
        yield list(cohort[lead:last]), lead, Window(first - lead, stop - lead, int(begins[lead]) % BATCH)
        first = stop
