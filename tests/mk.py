"""Small inputs for the cases: a run file, and data that are easy to learn."""

from pathlib import Path

import numpy as np


def toml(
    file,
    data,
    model='name = "mlp"\nhidden = [16]',
    *,
    rounds=3,
    run="",
    task="",
    algorithm="",
    trainer="lr = 0.05\nbatch_size = 8",
    more="",
):
    """Writes a run file, each section being the text given."""
    Path(file).write_text(
        f"[run]\nrounds = {rounds}\n{run}\n\n[data]\n{data}\n\n[model]\n{model}\n\n[task]\n{task}\n\n"
        f"[algorithm]\n{algorithm}\n\n[algorithm.trainer]\n{trainer}\n\n{more}\n"
    )


def blobs(n=240, d=10, k=4, seed=0):
    """Gaussian blobs: inputs float32 `[n, d]`, and labels `0..k-1`."""
    r = np.random.default_rng(seed)
    y = r.integers(0, k, n)
    return (2 * r.normal(size=(k, d))[y] + r.normal(size=(n, d))).astype(np.float32), y
