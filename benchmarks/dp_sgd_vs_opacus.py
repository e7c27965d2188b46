"""Example-level DP-SGD of many clients in lanes beside Opacus, in one run, on the same work with the same noise.

    python benchmarks/dp_sgd_vs_opacus.py [--rounds 5] [logistic mlp cnn]

Opacus is no dependency: `pip install opacus==1.6.0` (tried with torch 2.13.0).  Without it Headway's figures stand
alone.

A round is the local training of 100 clients: of each 10 Poisson batches of its 100 examples, sample_rate 0.1, clip norm
1, noise multiplier 1, plain SGD, one thread.  Headway's time is that of a whole round of a run (cohort, batches,
training in lanes, updates, sum, ledger); Opacus' is that of the steps alone: one model with its hooks and one optimizer
serve all clients, and batches are drawn with one call of torch, so that neither `make_private` nor its data loader is
in it.  Noise comes from AES-256 in counter mode here, and from torch's generator there.  The two take turns; times are
CPU seconds of the process, and the ratio is taken within each round.

Before that one client is trained by both on the same batches without noise, and the difference is printed; and the
noise of both is measured where gradients are nothing beside it, and is printed as a share of z C / (q n).
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from sizes import sized
from torch import Tensor, nn

import headway as hw
from headway.client.client_algorithm import ClientAlgorithm
from headway.client.client_training import ClientTraining
from headway.model import zoo as models
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key
from headway.protocol.messages import Ask, Message, Train
from headway.training.example_privacy import poisson_batches

CLIENTS, EXAMPLES, RATE, LR = sized(100, 4), sized(100, 20), 0.1, 0.1
HAS_OPACUS = importlib.util.find_spec("opacus") is not None


def convolutions() -> nn.Module:
    """The model of Opacus' MNIST example."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 8, 2, padding=3),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, 2),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


WORK: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "logistic": ((784,), lambda: models.logistic((784,), 10)),
    "mlp": ((784,), lambda: models.mlp((784,), 10)),
    "cnn": ((1, 28, 28), convolutions),
}


def data_of(shape: tuple[int, ...], clients: int = CLIENTS) -> hw.FederatedData:
    """Random examples."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(clients * EXAMPLES, *shape, generator=generator)
    targets = torch.randint(0, 10, (len(inputs),), generator=generator)
    index = torch.arange(len(inputs)).split(EXAMPLES)
    held = {f"{number:06d}": part for number, part in enumerate(index)}
    return hw.FederatedData("random", hw.Examples(inputs, targets), held, classes=10)


def rounds_of(data: hw.FederatedData, make: Callable[[], nn.Module], lanes: int) -> Iterator[object]:
    """Headway's rounds."""
    algorithm = hw.Algorithm(hw.chain(hw.Mean()), hw.DPSGD(lr=LR, sample_rate=RATE), hw.All())
    engine = hw.LocalEngine(drift=False, lanes=lanes)
    return iter(hw.Run(algorithm, data, hw.Task(make), rounds=10**6, evaluate_every=10**6, engine=engine))


class Opacus:
    """Opacus' local training of clients, one after another, with one model and one optimizer for all."""

    def __init__(self, make: Callable[[], nn.Module], noise_multiplier: float, denominator: float) -> None:
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer

        self.module = GradSampleModule(make())
        sgd = torch.optim.SGD(self.module.parameters(), LR)
        self.optimizer: Any = DPOptimizer(
            sgd, noise_multiplier=noise_multiplier, max_grad_norm=1.0, expected_batch_size=denominator
        )

    def train(self, start: Tensor, inputs: Tensor, targets: Tensor, batches: Iterator[Tensor]) -> Tensor:
        """The movement of one client."""
        nn.utils.vector_to_parameters(start.clone(), self.module.parameters())
        for batch in batches:
            self.optimizer.zero_grad()
            F.cross_entropy(self.module(inputs[batch]), targets[batch]).backward()
            self.optimizer.step()
        return nn.utils.parameters_to_vector(self.module.parameters()).detach() - start

    def rounds(self, data: hw.FederatedData, start: Tensor) -> Iterator[Tensor]:
        """The mean movement of all clients, again and again."""
        while True:
            total = torch.zeros_like(start)
            for client in data.clients:
                examples = data.train_of(client)
                drawn = ((torch.rand(EXAMPLES) < RATE).nonzero().flatten() for _ in range(round(1 / RATE)))
                total += self.train(start, examples.inputs, examples.targets, drawn)
            yield total / len(data.clients)


def compared(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[float, float, float]:
    """How far one client's movement is from Opacus' on the same batches without noise, as a share of its length; and
    the noise of a step of each, of examples without a gradient, as a share of z C / (q n)."""
    key = Key.root(1)
    moved = {}
    for noise in (0.0, 1.0):
        data = data_of(shape, clients=1)
        trainer = hw.DPSGD(lr=LR, sample_rate=RATE, noise_multiplier=noise, clip_norm=1.0 if not noise else 1e3)
        algorithm = hw.Algorithm(hw.chain(hw.Mean()), trainer, hw.All())
        flat_module = FlatModule(hw.Task(make), key)
        clients = ClientAlgorithm(algorithm, flat_module, algorithm.flows(), key)
        start, examples = flat_module.shared.clone(), data.train_of("000000")
        ask = Ask(Train(Message(start, {}), 0), ("000000",))
        outcome = ClientTraining(clients).train("000000", ask, examples, None)
        private = clients.client_key("000000", 0).derive("private").derive("trainer")
        batches = poisson_batches(private, EXAMPLES, RATE, trainer.privacy.steps)
        theirs = Opacus(make, noise, RATE * EXAMPLES)
        theirs.optimizer.max_grad_norm = trainer.clip_norm
        moved[noise] = outcome.trained.movement, theirs.train(start, examples.inputs, examples.targets, iter(batches))
    ours, opacus = moved[0.0]
    unit = LR * 1e3 * trainer.privacy.steps**0.5 / (RATE * EXAMPLES)  # beside which the gradients are nothing
    return (float((ours - opacus).norm() / opacus.norm()), *(float(each.std()) / unit for each in moved[1.0]))


def main() -> None:
    """Prints a line for each workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", default=list(WORK))
    parser.add_argument("--rounds", type=int, default=sized(5, 1))
    parser.add_argument("--lanes", type=int, default=CLIENTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, {CLIENTS} clients, median of {options.rounds} rounds, CPU seconds")
    if not HAS_OPACUS:
        print("Opacus is not installed (pip install opacus==1.6.0): Headway's rounds alone.")
    for name in options.workloads:
        shape, make = WORK[name]
        data = data_of(shape)
        runs: dict[str, Iterator[object]] = {"headway": rounds_of(data, make, options.lanes)}
        if HAS_OPACUS:
            apart, ours, theirs = compared(make, shape)
            print(
                f"{name}: same batches {apart:.1e} apart; noise / (z C / q n): Headway {ours:.3f}, Opacus {theirs:.3f}"
            )
            start = FlatModule(hw.Task(make), Key.root(0)).shared
            runs["opacus"] = Opacus(make, 1.0, RATE * EXAMPLES).rounds(data, start)
        spent: dict[str, list[float]] = {each: [] for each in runs}
        for number in range(options.rounds + 1):
            for each, run in runs.items():
                begun = time.process_time()
                next(run)
                if number:
                    spent[each].append(time.process_time() - begun)
        figures = ", ".join(f"{each} {statistics.median(taken):.3f} s" for each, taken in spent.items())
        ratio = [theirs / ours for ours, theirs in zip(spent["headway"], spent.get("opacus", []), strict=False)]
        faster = (
            f"; Opacus / Headway {statistics.median(ratio):.1f} ({min(ratio):.1f} to {max(ratio):.1f})" if ratio else ""
        )
        print(f"{name}: a round {figures}{faster}")


if __name__ == "__main__":
    main()
