"""What a secure sum costs at a client and at the server, in masks that are expanded and added.

    python benchmarks/secure_sum.py [--clients 100] [--size 1000000] [--lost 0.3] [--lanes 24] [--rounds 6]

One round for real: keys, shares, masked vectors, signatures, shares of those that remain; a share of the clients is
lost when vectors are sent.  With 100 clients each has 50 neighbours, and 21 shares give a secret.  Beside the time of
all that a client does (all phases, of the median survivor) and of all that the server does stands the time of expanding
as many AES-CTR bytes as there are masks and adding them to a vector, measured in the same run, before, amid and after.
Times are those of the processor in one thread, so that other work on the machine counts little.  The sum is compared
with the plain one.  Traffic is counted in bytes of frames.

After that a simulation trains an MLP of 515 parameters with secure sums for real: as many clients as `--lanes`, 100
local steps each, side by side in lanes and one at a time, in turn.  The times are those of whole rounds, exchanges
included, of the processor in one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from unittest import mock

import numpy as np
import torch
from sizes import sized
from torch import nn

import headway as hw
from headway.client.derived_signer import DerivedSigner
from headway.core.chain import chain
from headway.core.context import ClientContext, ExchangeContext, ServerContext
from headway.core.flow import Flow, SamplerFacts
from headway.core.layout import Layout
from headway.core.update import Update
from headway.numerics.keys import Key
from headway.protocol import wire
from headway.protocol.messages import Answer, Ask, Message, Request, Train
from headway.protocol.reports import ClientReport
from headway.protocol.sums import ExactTotal
from headway.stages import Clip, Mean, Quantize, SecureSum
from headway.stages.secure_aggregation import mask_stream, sum_server, transcript
from headway.stages.secure_aggregation.neighbour_graph import GraphPlan

KEY = Key.root(0)


class Cohort:
    """The clients of one round, with the seconds and the bytes of each phase.

    codes: the integers of one client, shifted by its place for each.
    """

    def __init__(self, clients: int, size: int, lost: float) -> None:
        self.stage, self.names = SecureSum(), tuple(f"client{place:05d}" for place in range(clients))
        self.gone = set(self.names[:: max(round(1 / lost), 1)][: round(lost * clients)]) if lost else set()
        while len(self.gone) < round(lost * clients):
            self.gone.add(next(name for name in reversed(self.names) if name not in self.gone))
        self.links = chain(Clip(), Quantize(16), self.stage, Mean("clients"))
        self.flows = self.links.trace(Flow(sampler=SamplerFacts("all", float(clients), clients), size=size))
        self.model, self.codes = torch.zeros(size), torch.arange(size) % 65_535 - 32_767
        self.secrets: dict[str, dict[str, torch.Tensor]] = {name: {} for name in self.names}
        self.seconds: dict[str, dict[str, float]] = defaultdict(dict)
        self.bytes_up: dict[str, dict[str, int]] = defaultdict(dict)
        self.bytes_down: dict[str, dict[str, int]] = defaultdict(dict)
        self.bits = self.flows[-1].packed
        self.hash = Message(self.model).digest("SecureSum")

    def codes_of(self, name: str) -> torch.Tensor:
        return self.codes.roll(self.names.index(name))

    def facts(self, name: str, request: Request) -> ExchangeContext:
        private, signer = KEY.derive("private", name), DerivedSigner(name, KEY)
        model_hash = self.hash if isinstance(request, Train) else b""
        return ExchangeContext(
            client=name,
            key=KEY,
            private=private,
            signer=signer,
            run="run",
            round=0,
            attempt=0,
            chain=self.links.fingerprint,
            flow=self.flows[-1],
            model_hash=model_hash,
        )

    def answer(self, ask: Ask) -> Answer:
        """The clients' answers to one ask, timed one by one."""
        if isinstance(ask.request, Train):
            return self._train(ask)
        replies, phase = {}, ask.request.name
        for name in ask.cohort:
            request, facts = ask.request_for(name), self.facts(name, ask.request)
            begun = time.thread_time()
            replies[name], self.secrets[name] = self.stage.answer(request, self.secrets[name], facts)
            self.seconds[name][phase] = time.thread_time() - begun
            self.bytes_up[name][phase] = wire.size(replies[name])
            self.bytes_down[name][phase] = wire.size({**ask.message.stages["SecureSum"], **request.private})
        return Answer(replies=replies)

    def _train(self, ask: Ask) -> Answer:
        total, reports = ExactTotal(), []
        for name in ask.cohort:
            if name in self.gone:
                reports.append(ClientReport(name, "dropped"))
                continue
            request, facts, codes = ask.request_for(name), self.facts(name, ask.request), self.codes_of(name)
            one = torch.tensor(1.0)
            numbers = dict.fromkeys(("steps", "effective_lr", "free_effective_lr", "lr_sum", "examples"), one)
            ctx = ClientContext(
                round=0,
                key=KEY,
                layout=Layout.of({"w": self.model}),
                flow=self.flows[1],
                global_params=self.model,
                received=request.message.stages["SecureSum"],
                movement=self.model,
                secret=self.secrets[name],
                exchange=facts,
                **numbers,
            )
            begun = time.thread_time()
            sent, _ = self.stage.send(Update.of(codes), {}, ctx)
            self.secrets[name] = self.stage.spent(self.secrets[name], request, facts)
            self.seconds[name]["mask"] = time.thread_time() - begun
            self.bytes_up[name]["mask"] = wire.size(wire.of_update(sent, self.bits))
            self.bytes_down[name]["mask"] = wire.size(ask.message.tensors()) - wire.size({"params": self.model})
            total.add(sent)
            reports.append(ClientReport(name, "counted"))
        return Answer(total, reports=reports)


def expanded(masks: int, size: int) -> float:
    """Seconds for the streams of so many keys, added to a vector of 32-bit words."""
    numbers = np.zeros(size, dtype=np.uint32)
    keys = [KEY.derive("stream", number).secret for number in range(masks)]
    begun = time.thread_time()
    mask_stream.add_masks(numbers, keys, [])
    return time.thread_time() - begun


def run(clients: int, size: int, lost: float) -> None:
    """One round, and its figures."""
    cohort = Cohort(clients, size, lost)
    ask = Ask(Train(Message(cohort.model)), cohort.names)
    layout = Layout.of({"w": cohort.model})
    ctx = ServerContext(0, KEY, layout, cohort.flows[-1], cohort.model, population=clients, asked_params=cohort.model)
    counted, taken_off = [], sum_server.Masks.taken_off

    def counting(masks: sum_server.Masks, total: mask_stream.Words) -> None:
        counted.append(len(masks.added) + len(masks.subtracted))
        taken_off(masks, total)

    served, answer, exchange = 0.0, None, cohort.stage.exchange(ask, ctx)
    before = [expanded(51, size) for _ in range(5)]
    with mock.patch.object(sum_server.Masks, "taken_off", counting):
        try:
            while True:
                begun = time.thread_time()
                asked = exchange.send(answer)
                served += time.thread_time() - begun
                answer = cohort.answer(asked)
                before.append(expanded(51, size))
        except StopIteration as end:
            served += time.thread_time() - begun
            answer = end.value
    before += [expanded(51, size) for _ in range(5)]
    remain = [name for name in cohort.names if name not in cohort.gone]
    plain = sum(cohort.codes_of(name) for name in remain)
    print(f"exact: {torch.equal(answer.total.integers['delta'], plain)}, {answer.total.count} of {clients} counted")
    report(cohort, size, remain, served, counted[0], statistics.median(before))


def report(cohort: Cohort, size: int, remain: list[str], served: float, masks: int, base: float) -> None:
    """The figures of one round; base: seconds for 51 masks."""
    name = sorted(remain, key=lambda one: sum(cohort.seconds[one].values()))[len(remain) // 2]
    phases = {phase: 1e3 * seconds for phase, seconds in cohort.seconds[name].items()}
    clients = len(cohort.names)
    own = transcript.graph_plan(clients, cohort.stage.rules.needed(clients), cohort.stage.corrupt).degree + 1
    client, beside = sum(phases.values()), 1e3 * base * own / 51
    print(f"client: {client:.1f} ms, {client / beside:.2f} x the {beside:.1f} ms of {own} masks; ", end="")
    print(", ".join(f"{phase} {ms:.1f}" for phase, ms in phases.items()))
    server = statistics.median(expanded(masks, size) for _ in range(3))
    print(f"server: {served:.2f} s, {served / server:.2f} x the {server:.2f} s of {masks} masks")
    up, down = cohort.bytes_up[name], cohort.bytes_down[name]
    vector, plain = up.pop("mask"), wire.size({"delta": torch.zeros(size)})
    shares = sum(up[phase] for phase in ("advertise", "share", "unmask")) + down["share"] + down["confirm"]
    print(
        f"traffic of a client: vector {vector:,} bytes ({vector / plain:.2f} of float32); besides it up "
        f"{sum(up.values()):,} ({sum(up.values()) / vector:.2%}), down {sum(down.values()):,} "
        f"({sum(down.values()) / vector:.2%}), of which keys and shares in both directions {shares:,} "
        f"({shares / vector:.2%}), the rest names and the signatures of survivors"
    )


def side_by_side(clients: int, rounds: int) -> None:
    """Rounds of a simulation with secure sums, in lanes and one client at a time; and their times."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(clients * 100, 12, generator=generator)
    held = {f"{place:04d}": part for place, part in enumerate(torch.arange(len(inputs)).split(100))}
    targets = torch.randint(0, 3, (len(inputs),), generator=generator)
    data = hw.FederatedData("random", hw.Examples(inputs, targets), held, classes=3)
    links = hw.chain(hw.Clip(1.0), hw.Quantize(16), hw.SecureSum(), hw.Mean("clients"))
    algorithm = hw.Algorithm(links, hw.LocalSGD(lr=0.05, batch_size=10, epochs=sized(10, 1)), hw.All())
    task = hw.Task(lambda: nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 3)))
    runs, spent = {}, defaultdict(list)
    for lanes in (clients, 1):
        engine = hw.LocalEngine(drift=False, lanes=lanes)
        runs[lanes] = iter(hw.Run(algorithm, data, task, rounds=rounds + 1, evaluate_every=None, engine=engine))
    for number in range(rounds + 1):
        for lanes, reports in runs.items():
            begun = time.process_time()
            next(reports)
            if number:  # the first warms up
                spent[lanes].append(time.process_time() - begun)
    ratios = [beside / alone for beside, alone in zip(spent[clients], spent[1], strict=True)]
    beside, alone = (1e3 * statistics.median(spent[lanes]) for lanes in (clients, 1))
    print(
        f"a simulated round of {clients} clients: in lanes {beside:.0f} ms, one at a time {alone:.0f} ms; in lanes "
        f"{statistics.median(ratios):.2f} of it ({min(ratios):.2f} to {max(ratios):.2f} in {rounds} rounds)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=sized(100, 12))
    parser.add_argument("--size", type=int, default=sized(1_000_000, 5_000))
    parser.add_argument("--lost", type=float, default=sized(0.3, 0.25))
    parser.add_argument("--lanes", type=int, default=sized(24, 6))
    parser.add_argument("--rounds", type=int, default=sized(6, 1))
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape = f"{options.clients} clients, {options.size} parameters, {options.lost:.0%} lost"
    print(f"{shape}, torch {torch.__version__}, 1 thread")
    planned = transcript.graph_plan if options.clients != 100 else lambda *_: GraphPlan(50, 21)
    with mock.patch.object(transcript, "graph_plan", planned):
        run(options.clients, options.size, options.lost)
    if options.rounds:
        side_by_side(options.lanes, options.rounds)


if __name__ == "__main__":
    main()
