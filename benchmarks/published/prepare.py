"""Turns two archives that are not distributed with Headway into what its run files beside this one read.

    python benchmarks/published/prepare.py lc25000 lc25000_lung_64.npz data/lc25000
    python benchmarks/published/prepare.py ahcd ahcd_60writers.npz data/ahcd.npz

lc25000: an archive of concatenated JPEGs (`jpeg`, their lengths `len`, labels `y`, names `classes`) becomes a folder
    of pictures for each class, as LC25000 (Borkowski et al., arXiv 1912.12142) itself comes.
ahcd: `x_*`, `y_*` and the writers `w_*` (Arabic Handwritten Characters Dataset, El-Sawy et al. 2017) become arrays
    with a client for each writer, who keeps the test letters too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def lc25000(archive: Path, out: Path) -> None:
    with np.load(archive) as held:
        raw, lengths, labels = held["jpeg"].tobytes(), held["len"], held["y"]
        names = [str(name) for name in held["classes"]]
    start = 0
    for number, (length, label) in enumerate(zip(lengths.tolist(), labels.tolist(), strict=True)):
        folder = out / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05d}.jpeg").write_bytes(raw[start : start + length])
        start += length
    print(f"{len(lengths)} pictures of {len(names)} classes in {out}")


def ahcd(archive: Path, out: Path) -> None:
    with np.load(archive) as held:
        arrays = {f"{axis}_{part}": held[f"{axis}_{part}"] for axis in "xyw" for part in ("train", "test")}
    for part in ("train", "test"):
        arrays[f"client_{part}"] = arrays.pop(f"w_{part}").astype(np.int64)
        arrays[f"y_{part}"] = arrays[f"y_{part}"].astype(np.int64)
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, **arrays)
    print(f"{len(arrays['y_train'])} + {len(arrays['y_test'])} letters of {len(set(arrays['client_train']))} writers in {out}")


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("lc25000", "ahcd"):
        sys.exit(__doc__)
    {"lc25000": lc25000, "ahcd": ahcd}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
