"""The requirements of stages on the flow by name, with the sentences of the refusal; see `Flow.require`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from headway.core.facts import FlowFacts


@dataclass(frozen=True, slots=True)
class Requirement:
    """A requirement of a stage on the flow: the fact that decides it, whether it holds, and the parts of a refusal."""

    fact: str
    holds: Callable[[FlowFacts], bool]
    needed: str
    found: Callable[[FlowFacts], str]
    do_this: Callable[[FlowFacts], str]


def _effect(flow: FlowFacts) -> float:
    """The bound of what one client's data change, infinite if there is none."""
    bounds = [bound for bound in (flow.bound, flow.sensitivity) if bound is not None]
    return bounds[0] if bounds else math.inf


def _long(flow: FlowFacts) -> list[str]:
    """The names of the vectors beside the delta that are more than single numbers."""
    return [name for name in flow.vectors if name != "delta" and name not in flow.scalars]


REQUIREMENTS: Mapping[str, Requirement] = {
    "memory": Requirement(
        "engine",
        lambda flow: flow.engine is None or flow.engine.memory,
        "clients that keep memory between rounds",
        lambda flow: f"the {flow.engine.name if flow.engine else ''} engine, which keeps none",
        lambda flow: "run on an engine with client memory",
    ),
    "synchronous": Requirement(
        "asynchronous",
        lambda flow: not flow.asynchronous,
        "synchronous rounds",
        lambda flow: "updates of any age",
        lambda flow: 'use Quorum(late="drop")',
    ),
    "simulated": Requirement(
        "engine",
        lambda flow: flow.engine is None or not flow.engine.deployed,
        "simulated clients, since nothing hides what they send",
        lambda flow: f"the {flow.engine.name if flow.engine else ''} engine, whose clients are machines of their own",
        lambda flow: 'set mode = "real"',
    ),
    "whole_population": Requirement(
        "sampler",
        lambda flow: flow.sampler is None or flow.sampler.population in (None, flow.sampler.expected),
        "every client in every round",
        lambda flow: f"a cohort of {flow.cohort or 0:g} of {flow.sampler and flow.sampler.population} clients",
        lambda flow: "use All()",
    ),
    "never_excluded": Requirement(
        "excludes",
        lambda flow: not flow.excludes,
        "every client in every round",
        lambda flow: "a quarantine, in which clients are not drawn",
        lambda flow: "leave quarantine_below out",
    ),
    "immediate": Requirement(
        "engine",
        lambda flow: flow.engine is None or not (flow.engine.deployed or flow.engine.clock),
        "clients that answer at once, since one of them is asked several times in a round",
        lambda flow: f"the {flow.engine.name if flow.engine else ''} engine",
        lambda flow: "run in this process or in workers, without a clock",
    ),
    "unprotected": Requirement(
        "events",
        lambda flow: not flow.events,
        "updates without noise that is promised to hide single clients",
        lambda flow: f"{flow.events[0].mechanism.replace('_', ' ')} noise" if flow.events else "",
        lambda flow: "leave the noise out",
    ),
    "cohort_size": Requirement(
        "sampler",
        lambda flow: flow.engine is None or flow.cohort is not None,
        "a sampler that announces the size of its cohort",
        lambda flow: "one that does not",
        lambda flow: "use All, Uniform or Fixed",
    ),
    "large_cohort": Requirement(
        "sampler",
        lambda flow: flow.cohort is None or flow.cohort >= flow.min_cohort,
        "cohorts in which single clients are hidden",
        lambda flow: f"cohorts of {flow.cohort or 0:g}, where at least {flow.min_cohort} are asked for",
        lambda flow: "ask more clients in a round, or set a lower min_cohort, which protects each of them less",
    ),
    "linear_steps": Requirement(
        "trainer",
        lambda flow: flow.trainer is None or flow.trainer.linear,
        "local steps that are linear in the gradients",
        lambda flow: f"{flow.trainer.name} with {flow.trainer.optimizer}" if flow.trainer else "",
        lambda flow: "train with LocalSGD",
    ),
    "real": Requirement(
        "number",
        lambda flow: flow.number == "real" and all(spec.number == "real" for spec in flow.specs.values()),
        "real numbers",
        lambda flow: "integers in a ring" if flow.number == "ring" else "integers",
        lambda flow: "",
    ),
    "ring": Requirement(
        "number",
        lambda flow: flow.number == "ring",
        "integers in a ring",
        lambda flow: "real numbers",
        lambda flow: "put a quantiser before it",
    ),
    "bounded_integers": Requirement(
        "number",
        lambda flow: flow.largest is not None,
        "integers with a largest value, from which follows that their sum cannot overflow",
        lambda flow: f"those of {flow.set_by.get('number', 'a stage')}, which have none",
        lambda flow: "quantise with Quantize",
    ),
    "additive": Requirement(
        "additive",
        lambda flow: flow.additive,
        "encoded updates that may be added as they are",
        lambda flow: "updates that must be decoded first",
        lambda flow: "leave the encoder out",
    ),
    "dense": Requirement(
        "dense",
        lambda flow: flow.dense,
        "every coordinate from every client",
        lambda flow: "some of the coordinates of each",
        lambda flow: "leave the sparsifier out",
    ),
    "bound": Requirement(
        "bound",
        lambda flow: math.isfinite(_effect(flow)),
        "a bound of one client's effect",
        lambda flow: "none",
        lambda flow: 'use Clip and Mean(over="expected")',
    ),
    "sum": Requirement(
        "reduced",
        lambda flow: not flow.reduced,
        "an aggregate that is a sum, whose change by one client is known",
        lambda flow: (
            f"{flow.set_by.get('reduced')}, a rule over the whole cohort, which may release one client's update"
        ),
        lambda flow: 'use Mean(over="expected")',
    ),
    "separated": Requirement(
        "sampler",
        lambda flow: flow.sampler is None or flow.sampler.separation >= flow.bands,
        "a sampler that keeps the rounds of a client as far apart as the noise of one round lasts",
        lambda flow: f"{flow.sampler.separation if flow.sampler else 1} rounds apart at least, and {flow.bands} bands",
        lambda flow: f"use Spaced(count=..., separation={flow.bands}), or fewer bands",
    ),
    "fixed_units": Requirement(
        "rescaled",
        lambda flow: not flow.rescaled,
        "vectors in the same units in every round",
        lambda flow: f"{flow.set_by.get('rescaled')}, whose units follow the clients' norms",
        lambda flow: "use Clip",
    ),
    "finite_bound": Requirement(
        "bound",
        lambda flow: flow.bound is not None and flow.bound < float("inf"),
        "a finite bound of each client's update, from which all clients have the same scale",
        lambda flow: "none" if flow.bound is None else "an infinite one",
        lambda flow: "put Clip(norm) before it",
    ),
    "limited_terms": Requirement(
        "weighted",
        lambda flow: not flow.weighted or flow.lifted is not None,
        "weights with an upper limit, since they are multiplied in before the vectors become integers",
        lambda flow: "weights by number of examples",
        lambda flow: 'use Mean(over="clients") or Mean(over="expected"), or Weigh(by="capped", cap=...) before it',
    ),
    "behind_sum": Requirement(
        "weighted",
        lambda flow: flow.weighted,
        "a secure sum after it",
        lambda flow: "a server that sees each client's update",
        lambda flow: "add SecureSum() before the aggregator, or use LocalGaussian",
    ),
    "quantised": Requirement(
        "specs",
        lambda flow: "delta" in flow.specs and flow.specs["delta"].number == "integer",
        "integers of a quantiser",
        lambda flow: "real numbers",
        lambda flow: "put Quantize before it",
    ),
    "enough_shares": Requirement(
        "survivors",
        lambda flow: flow.fewest is None or flow.survivors <= flow.fewest,
        "as many clients in every sum as the shares of noise are counted on",
        lambda flow: f"sums of {flow.fewest} clients that may be unmasked, and noise that needs {flow.survivors}",
        lambda flow: f"set min_survivors and min_cohort of the secure sum to {flow.survivors} or more",
    ),
    "integer_norm": Requirement(
        "integer_norm",
        lambda flow: flow.number == "ring" and flow.integer_norm is not None,
        "integers of a known norm, by which the noise is scaled",
        lambda flow: "integers of a norm that no stage has set",
        lambda flow: "put Quantize before it",
    ),
    "whole_delta": Requirement(
        "specs",
        lambda flow: flow.specs["delta"].length is None if "delta" in flow.specs else True,
        "a delta with a number of each parameter",
        lambda flow: "a part of the parameters",
        lambda flow: "keep one of the sparsifiers",
    ),
    "own_scales": Requirement(
        "vectors",
        lambda flow: bool(flow.bounds) or not _long(flow),
        "a scale of its own for each vector of the model's length",
        lambda flow: f"{' and '.join(_long(flow))} under one bound with the delta",
        lambda flow: "clip each vector on its own, with Clip(norm, others=...)",
    ),
    "same_weights": Requirement(
        "weight_bound",
        lambda flow: flow.weighed_by is None or flow.uniform,
        "weights that are the same for all clients, since the sum of weights is seen without noise",
        lambda flow: f"weights set by {flow.weighed_by}",
        lambda flow: 'use Weigh(by="uniform")',
    ),
    "each_update": Requirement(
        "server_sees",
        lambda flow: flow.server_sees != "sum",
        "each client's update at the server, or sums of several groups",
        lambda flow: "only their sum",
        lambda flow: "set the number of buckets (SecureSum.buckets), or leave the secure sum out",
    ),
    "single_updates": Requirement(
        "server_sees",
        lambda flow: flow.server_sees == "each",
        "each client's update at the server",
        lambda flow: "only their sum" if flow.server_sees == "sum" else f"the sums of {flow.buckets} buckets",
        lambda flow: "leave the secure sum out",
    ),
    "repeatable": Requirement(
        "number",
        lambda flow: flow.number == "real" and not flow.specs and not flow.events,
        "updates that are the same wherever they are made",
        lambda flow: (
            f"{flow.events[0].mechanism.replace('_', ' ')} noise" if flow.events else "numbers that each client encodes"
        ),
        lambda flow: "leave noise and encoders out",
    ),
    "one_sum": Requirement(
        "buckets",
        lambda flow: flow.server_sees != "bucket sums",
        "the sum of the whole cohort",
        lambda flow: f"the sums of {flow.buckets} buckets, which only a robust rule aggregates",
        lambda flow: "set buckets = 1, or aggregate with Median, Krum or another robust rule",
    ),
    "enough_buckets": Requirement(
        "buckets",
        lambda flow: flow.server_sees != "bucket sums" or flow.min_updates <= flow.buckets,
        "enough buckets for the attackers that it is to withstand, since each may spoil the sum of a bucket of its own",
        lambda flow: f"{flow.buckets} buckets, where {flow.attackers} attackers take {flow.min_updates}",
        lambda flow: f"set buckets to {flow.min_updates} or more, or a smaller f",
    ),
    "known_count": Requirement(
        "buffer",
        lambda flow: not flow.asynchronous or flow.buffer is not None,
        "a number of updates that it chooses among, also where late ones are kept",
        lambda flow: "as many as there happen to be",
        lambda flow: "set the size of the buffer (quorum.count)",
    ),
    "sum_of_one_round": Requirement(
        "asynchronous",
        lambda flow: not flow.asynchronous or flow.server_sees == "each",
        "updates of one round, since the masks of different rounds do not cancel in their sum",
        lambda flow: "late updates that are kept",
        lambda flow: 'drop late ones (quorum.late = "drop")',
    ),
    "private_weights": Requirement(
        "weight_leaks",
        lambda flow: flow.weight_leaks is None or flow.server_sees == "each",
        "weights that reveal nothing of one client's data, since it may see only sums",
        lambda flow: f"weights by the {flow.weight_leaks}",
        lambda flow: 'weigh by="alignment", which the server\'s own last aggregate decides',
    ),
    "own_weights": Requirement(
        "weight_bound",
        lambda flow: flow.weighed_by is None,
        "one stage that sets the weights",
        lambda flow: f"{flow.weighed_by} and {{stage}}",
        lambda flow: f"leave {flow.weighed_by} out",
    ),
    "equal_weights": Requirement(
        "weight_bound",
        lambda flow: flow.weighed_by is None,
        "clients that count the same",
        lambda flow: f"weights set by {flow.weighed_by}",
        lambda flow: f"leave {flow.weighed_by} out",
    ),
    "any_weights": Requirement(
        "equal",
        lambda flow: not flow.equal,
        "weights by client",
        lambda flow: f"{flow.set_by.get('equal')}, which needs clients that count the same",
        lambda flow: 'use Mean(over="clients")',
    ),
    "limited_weights": Requirement(
        "weight_bound",
        lambda flow: flow.weighed_by is None or flow.weight_bound is not None,
        "weights with an upper limit, for a fixed denominator",
        lambda flow: "weights by number of examples",
        lambda flow: f"use {flow.weighed_by} with a cap",
    ),
    "one_vector": Requirement(
        "vectors",
        lambda flow: set(flow.vectors) <= {"delta", "buffers"},
        "no vector beside the delta",
        lambda flow: " and ".join(name for name in flow.vectors if name not in ("delta", "buffers")),
        lambda flow: "choose whole clients (Krum, GeometricMedian, NNM before either)",
    ),
    "not_rebased": Requirement(
        "rebased",
        lambda flow: not flow.rebased,
        "updates that lead from the model with which the client was asked",
        lambda flow: "Rebase before it",
        lambda flow: "",
    ),
}
