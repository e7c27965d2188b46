"""The Local engine beside a plain hand-written PyTorch loop over the same clients, in one process.

    python benchmarks/local_loop.py [--rounds 9] [--recipe fedavg]

MLP 784-200-10, 100 clients of 100 examples, batch 20, one epoch, SGD 0.1; drift, evaluation and journal
off.  The two alternate, and the ratio of each pair of rounds is taken.  The plain loop does what most
tutorials do: load the global model into one module, torch.optim.SGD, average the state dicts.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from sizes import sized

import headway as hw
from headway import recipes
from headway.model import zoo as models
from headway.numerics.exact_sum import ExactSum

CLIENTS, EXAMPLES, BATCH, LR = sized(100, 5), 100, 20, 0.1


def make_data() -> hw.FederatedData:
    generator = torch.Generator().manual_seed(0)
    return hw.FederatedData.from_clients(
        {
            f"client-{i:02d}": (
                torch.randn(EXAMPLES, 784, generator=generator),
                torch.randint(0, 10, (EXAMPLES,), generator=generator),
            )
            for i in range(CLIENTS)
        }
    )


class PlainLoop:
    """What one would write by hand in an afternoon."""

    def __init__(self, data: hw.FederatedData, factory) -> None:
        self.clients = [data.train_of(client) for client in data.clients]
        self.model = factory()
        self.global_state = {k: v.clone() for k, v in self.model.state_dict().items()}

    def round(self) -> None:
        mean = {k: torch.zeros_like(v) for k, v in self.global_state.items()}
        total = sum(len(c) for c in self.clients)
        for client in self.clients:
            self.model.load_state_dict(self.global_state)
            optimizer = torch.optim.SGD(self.model.parameters(), lr=LR)
            self.model.train()
            order = torch.randperm(len(client))
            for start in range(0, len(client), BATCH):
                index = order[start : start + BATCH]
                optimizer.zero_grad()
                loss = F.cross_entropy(self.model(client.inputs[index]), client.targets[index])
                loss.backward()
                optimizer.step()
            for k, v in self.model.state_dict().items():
                mean[k].add_(v, alpha=len(client) / total)
        self.global_state = mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=sized(9, 1))
    parser.add_argument("--recipe", default="fedavg", choices=recipes.names())
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--drift", action="store_true", help="measure drift as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    data = make_data()
    factory = models.factory("mlp", (784,), 10, {"hidden": [200]})
    plain = PlainLoop(data, factory)
    trainer = hw.LocalSGD(lr=LR, batch_size=BATCH)
    run = hw.Run(
        recipes.recipe(options.recipe, trainer=trainer),
        data,
        hw.Task(model=factory),
        rounds=10**6,
        evaluate_every=10**6,
        engine=hw.LocalEngine(drift=options.drift),
    )
    rounds = iter(run)
    ours, theirs, exact = [], [], []
    for number in range(options.rounds + 2):
        begun = time.perf_counter()
        plain.round()
        middle = time.perf_counter()
        with timed_exact_adds() as spent:
            next(rounds)
        end = time.perf_counter()
        if number >= 2:  # the first two warm up
            theirs.append(middle - begun)
            ours.append(end - middle)
            exact.append(spent[0] / (end - middle))
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    print(f"torch {torch.__version__}, {options.threads} threads, {options.recipe}, {options.rounds} pairs")
    print(f"plain loop   {statistics.median(theirs) * 1e3:8.1f} ms a round (median)")
    print(f"Headway      {statistics.median(ours) * 1e3:8.1f} ms a round (median)")
    print(f"ratio        {ratio:8.3f}    (median of the pairs)")
    print(f"exact sums   {statistics.median(exact) * 100:8.2f} % of a round")


class timed_exact_adds:  # noqa: N801
    """Adds up the time spent in the exact accumulator while it is entered."""

    def __enter__(self) -> list[float]:
        self.spent = [0.0]
        self.originals = (ExactSum.add, ExactSum.merge, ExactSum.value)
        for name, original in zip(("add", "merge", "value"), self.originals, strict=True):
            setattr(ExactSum, name, self._timed(original))
        return self.spent

    def __exit__(self, *_: object) -> None:
        ExactSum.add, ExactSum.merge, ExactSum.value = self.originals  # type: ignore[method-assign]

    def _timed(self, original):
        def call(*args):
            begun = time.perf_counter()
            try:
                return original(*args)
            finally:
                self.spent[0] += time.perf_counter() - begun

        return call


if __name__ == "__main__":
    main()
