"""An exact sum and reports on clients as named tensors, for the way from a relay to its server.

A bin of an exact sum goes as whole numbers of its unit: 32 bits each, the top one in as few as hold it.  So the bits
of the sum are those that the clients' updates would have given one by one.  A sum of masked vectors modulo 2^b takes
b bits a number, as each of them does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from headway.core.errors import FrameError, HeadwayError
from headway.core.update import Tensors
from headway.numerics.exact_sum import LOWEST, ExactScalar, ExactSum
from headway.numerics.packing import pack, packed_length, unpack
from headway.protocol.messages import SumReply
from headway.protocol.reports import Reports
from headway.protocol.sums import ExactTotal

BIN, INTEGERS, UNITS = "b/", "i/", "u/"  # before the names of tensors
WEIGHT, COUNT, REPORTS = "weight", "count", "reports"
HIGHEST = 27  # the bin of the largest number that an exact sum takes, 2^896
MOST_BINS = 40  # of one vector: numbers below 2^128 have 39 down to the smallest float64, and 3 or 4 as a rule
MOST_DIGITS = 300  # bytes of an exact scalar: it has a little over 2,100 bits
MOST_TERMS = 1 << 20
NUMBERS: Mapping[str, type] = {"examples": int, "steps": int, "bytes_up": int, "bytes_down": int, "seconds": float}
STATUSES = ("counted", "rejected", "dropped")
NONE: Mapping[str, int] = MappingProxyType({})


def sum_to_tensors(reply: SumReply, modulo: Mapping[str, int] = NONE) -> dict[str, Tensor]:
    """The reply of a relay as named tensors.

    modulo: the bits b of vectors whose sum counts modulo 2^b, by name; they become bytes without gaps.

    Raises:
        FrameError: for a total that holds single updates, as a whole-cohort rule needs them.
    """
    total = reply.total
    assert not total.rounded, "a relay keeps its sum exact"
    if total.rows:
        raise FrameError("a total that keeps each client's update cannot be sent as a sum.")
    named = {COUNT: torch.tensor(total.count), WEIGHT: _digits(total.weight), REPORTS: _text(reply.reports)}
    named |= {f"{UNITS}{name}": _digits(number) for name, number in total.sums.items()}
    for name, integers in total.integers.items():
        named[f"{INTEGERS}{name}"] = pack(integers, modulo[name]) if name in modulo else integers
    for name, held in total.vectors.items():
        named |= {f"{BIN}{k}/{name}": numbers for k, numbers in held.digits().items()}
    return named


def sum_from_tensors(named: Tensors, lengths: Mapping[str, int], modulo: Mapping[str, int] = NONE) -> SumReply:
    """The reply of a relay that `sum_to_tensors` has made.

    lengths: how many numbers each vector of the sum has (`Chain.summed_lengths`).  modulo: as there.

    Raises:
        FrameError: naming what differs from such a reply.
    """
    total, bins = ExactTotal(), dict[str, dict[int, Tensor]]()
    for path, tensor in named.items():
        if path.startswith(BIN):
            number, _, name = path.removeprefix(BIN).partition("/")
            bins.setdefault(name, {})[_bin_number(number)] = _checked(tensor, name, lengths)
        elif path.startswith(INTEGERS):
            name = path.removeprefix(INTEGERS)
            total.integers[name] = _checked(_unpacked(tensor, name, lengths, modulo), name, lengths)
        elif path.startswith(UNITS):
            total.sums[path.removeprefix(UNITS)] = _scalar(tensor)
        elif path not in (WEIGHT, COUNT, REPORTS):
            raise FrameError(f"a sum holds {path!r}, which no sum has.")
    if missing := {WEIGHT, COUNT, REPORTS} - named.keys():
        raise FrameError(f"a sum lacks its {min(missing)}.")
    for name, held in bins.items():
        if len(held) > MOST_BINS:
            raise FrameError(f"a sum has {len(held)} bins for {name!r}, above {MOST_BINS}.")
        try:
            total.vectors[name] = ExactSum.of_digits(held)
        except HeadwayError as error:
            raise FrameError(f"{name!r} of a sum is none: {error}") from error
    reports = _reports(named[REPORTS])
    counted = len(reports.with_status("counted"))
    total.count, total.weight = _count(named[COUNT]), _scalar(named[WEIGHT])
    if total.count not in (0, counted):
        raise FrameError(f"a sum of {total.count} updates has reports on {counted} clients that count.")
    found, wanted = total.vectors.keys() | total.integers.keys(), set(lengths) if total.count else set()
    if found != wanted:
        raise FrameError(f"a sum of {total.count} updates must hold {sorted(wanted)}, found {sorted(found)}.")
    return SumReply(total, reports)


def largest_sum(lengths: Mapping[str, int], clients: int) -> int:
    """How many bytes the frame of a sum over so many clients has at most."""
    return sum((4 * MOST_BINS + 8) * length for length in lengths.values()) + (clients + 64) * 1024


def _bin_number(text: str) -> int:
    if not (text.removeprefix("-").isdecimal() and len(text) <= 3 and LOWEST <= int(text) <= HIGHEST):
        raise FrameError(f"a sum has a bin {text!r}, and bins go from {LOWEST} to {HIGHEST}.")
    return int(text)


def _unpacked(tensor: Tensor, name: str, lengths: Mapping[str, int], modulo: Mapping[str, int]) -> Tensor:
    """A vector of whole numbers, of its bytes where it counts modulo 2^b."""
    if name not in modulo or name not in lengths:
        return tensor
    size = packed_length(lengths[name], modulo[name])
    if tensor.dtype != torch.uint8 or tuple(tensor.shape) != (size,):
        found = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
        raise FrameError(f"{name!r} of a sum must be {size} bytes, numbers of {modulo[name]} bits, found {found}.")
    return unpack(tensor, modulo[name], lengths[name])


def _checked(tensor: Tensor, name: str, lengths: Mapping[str, int]) -> Tensor:
    """A vector of whole numbers, of the promised length."""
    if name not in lengths:
        raise FrameError(f"a sum holds a vector {name!r} that the chain does not add.")
    if tensor.is_floating_point() or tuple(tensor.shape) != (lengths[name],):
        kind = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
        raise FrameError(f"{name!r} of a sum must be {lengths[name]} whole numbers, found {kind}.")
    return tensor


def _digits(number: ExactScalar) -> Tensor:
    """The units of an exact scalar as the bytes of a signed little-endian number."""
    length = number.units.bit_length() // 8 + 1
    return torch.frombuffer(bytearray(number.units.to_bytes(length, "little", signed=True)), dtype=torch.uint8)


def _scalar(tensor: Tensor) -> ExactScalar:
    if tensor.dtype != torch.uint8 or tensor.ndim != 1 or not 0 < len(tensor) <= MOST_DIGITS:
        raise FrameError(
            f"an exact number must be 1 to {MOST_DIGITS} bytes, found {tensor.dtype} {tuple(tensor.shape)}."
        )
    return ExactScalar(int.from_bytes(bytes(tensor.tolist()), "little", signed=True))


def _count(tensor: Tensor) -> int:
    if tensor.ndim or tensor.is_floating_point() or not 0 <= int(tensor) <= MOST_TERMS:
        raise FrameError(f"a sum must be of 0 to {MOST_TERMS} updates.")
    return int(tensor)


def _text(reports: Reports) -> Tensor:
    """The reports as the bytes of JSON."""
    rows = {name: list(getattr(reports, name)) for name in Reports.PLAIN}
    metrics = {name: list(column) for name, column in reports.metrics.items()}
    raw = json.dumps({**rows, "metrics": metrics}).encode()
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)


def _reports(tensor: Tensor) -> Reports:
    """The reports of their bytes.

    Raises:
        FrameError: if a column has other values than reports have.
    """
    try:
        found = json.loads(bytes(tensor.tolist()).decode())
        if not isinstance(found, dict) or found.keys() != {*Reports.PLAIN, "metrics"}:
            raise ValueError("other columns than reports have")
        clients = found["clients"]
        columns = {**{name: found[name] for name in Reports.PLAIN}, **_metrics(found["metrics"])}
        for name, column in columns.items():
            if not isinstance(column, list) or len(column) != len(clients):
                raise ValueError(f"{name!r} is no column of {len(clients)} clients")
            if strange := [value for value in column if not _fits(name, value)]:
                raise ValueError(f"{name!r} holds {strange[0]!r}")
        if len(set(clients)) != len(clients):
            raise ValueError("a client twice")
    except (ValueError, TypeError, RecursionError) as error:
        raise FrameError(f"the reports of a sum are not what reports are: {error}.") from error
    plain: dict[str, Any] = {name: found[name] for name in Reports.PLAIN}
    return Reports(**plain, metrics=found["metrics"])


def _metrics(found: object) -> dict[str, Any]:
    if not isinstance(found, dict) or not all(name.isprintable() and 0 < len(name) <= 200 for name in found):
        raise ValueError("metrics must be columns by name")
    return {f"metric {name}": column for name, column in found.items()}


def _fits(name: str, value: object) -> bool:
    """Whether a value may stand in a column."""
    if name == "statuses":
        return value in STATUSES
    if name in ("clients", "reasons"):
        return isinstance(value, str) and len(value) <= 2000 and (name == "reasons" or bool(value))
    if name in NUMBERS:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return (whole or (NUMBERS[name] is float and isinstance(value, float))) and 0 <= value < 2**63  # type: ignore[operator]
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
