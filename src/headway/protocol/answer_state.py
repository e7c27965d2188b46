"""An answer as tensors and plain values, from which it is made again to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from headway.core.update import Update
from headway.numerics.exact_sum import ExactSum
from headway.protocol.messages import Answer
from headway.protocol.reports import Reports
from headway.protocol.sums import ExactTotal


def answer_to_state(answer: Answer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Plain values that JSON holds, and tensors by name."""
    total, tensors = answer.total, dict[str, Tensor]()
    bins: dict[str, Any] = {}
    for name, held in total.vectors.items():
        bins[name] = {"terms": held.terms, "bins": sorted(held.bins)}
        tensors |= {f"bins/{name}/{k}": part for k, part in held.bins.items()}
    tensors |= {f"integers/{name}": vector for name, vector in total.integers.items()}
    tensors |= {f"rounded/{name}": vector for name, vector in total.rounded.items()}
    rows = sorted(total.rows)  # names of clients may hold anything, so tensors are named by their place
    for place, client in enumerate(rows):
        update = total.rows[client]
        tensors |= {f"rows/{place}/v/{name}": vector for name, vector in update.vectors.items()}
        tensors |= {f"rows/{place}/s/{name}": number for name, number in update.sums.items()}
        tensors[f"rows/{place}/weight"] = update.weight
    replied = sorted(answer.replies)
    for place, client in enumerate(replied):
        tensors |= {f"replies/{place}/{name}": tensor for name, tensor in answer.replies[client].items()}
    compared = sorted(answer.deltas)
    tensors |= {f"deltas/{place}": answer.deltas[client] for place, client in enumerate(compared)}
    values = {
        "total": total.to_state(),
        "vectors": bins,
        "rows": rows,
        "replies": replied,
        "reports": answer.reports.to_state(),
        "earlier": answer.earlier.to_state(),
        "figures": dict(answer.figures),
        "clock": dict(answer.clock),
        "flying": dict(answer.flying),
        "notes": list(answer.notes),
        "exchanged": list(answer.exchanged),
        "deltas": compared,
    }
    return values, tensors


def answer_from_state(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Answer:
    """The answer of what `answer_to_state` gave."""
    vectors = {
        name: ExactSum({k: tensors[f"bins/{name}/{k}"] for k in held["bins"]}, held["terms"])
        for name, held in values["vectors"].items()
    }
    total = ExactTotal.from_state(values["total"], vectors, _under("integers/", tensors))
    total.rounded = _under("rounded/", tensors)
    for place, client in enumerate(values["rows"]):
        own = _under(f"rows/{place}/", tensors)
        total.rows[client] = Update(_under("v/", own), own["weight"], _under("s/", own))
    return Answer(
        total=total,
        replies={client: _under(f"replies/{place}/", tensors) for place, client in enumerate(values["replies"])},
        reports=Reports(**values["reports"]),
        earlier=Reports(**values["earlier"]),
        figures=values["figures"],
        clock=values["clock"],
        flying=values["flying"],
        notes=values["notes"],
        exchanged=tuple(values.get("exchanged", (0, 0))),
        deltas={client: tensors[f"deltas/{place}"] for place, client in enumerate(values.get("deltas", ()))},
    )


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
