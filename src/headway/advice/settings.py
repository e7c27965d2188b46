"""Settings that undo themselves, or each other: remarks on an algorithm before it trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headway.core.algorithm import Algorithm
from headway.stages import ECGR, Clip, FedProx, Scaffold
from headway.training.local_sgd import LocalSGD

NOTHING = 1e-6  # of the learning rate: below it nothing is learned
HEAVY = 0.5  # momentum from which a control variate of few steps is large
UNEQUAL = 10.0  # times as many local steps at one client as at another


def setting_warnings(
    algorithm: Algorithm, rounds: int, sizes: Sequence[int] = (), averaged: bool = False
) -> tuple[str, ...]:
    """A sentence for each setting that has no effect, or takes away that of another.

    sizes: the clients' training examples, where they are known.  averaged: whether the task averages statistics.
    """
    trainer = algorithm.trainer
    remarks = list(_of_chain(algorithm, averaged))
    if isinstance(trainer, LocalSGD):
        counts = [trainer.most_steps(size) for size in set(sizes)]
        schedule = _of_schedule(trainer, rounds, max(counts, default=0))
        remarks = [*schedule, *_of_trainer(trainer, algorithm), *_of_steps(trainer, algorithm, counts), *remarks]
    return tuple(remarks)


def _of_schedule(trainer: LocalSGD, rounds: int, steps: int) -> Iterator[str]:
    """A learning rate that is gone too early, or never changes."""
    schedule = trainer.schedule
    if schedule.kind == "constant":
        return
    where = "algorithm.trainer.schedule"
    ends = {"rounds": rounds, "epochs": trainer.epochs if trainer.steps is None else 0, "steps": steps}[schedule.over]
    if schedule.over != "rounds":
        yield f'the learning rate starts again in each round, since {where}.over = "{schedule.over}".'
    if ends == 1:
        each = "the run has one round" if schedule.over == "rounds" else f"a round has one of its {schedule.over}"
        yield f"the learning rate never changes, since {where} counts {schedule.over} and {each}."
    gone = next((t for t in range(min(ends, 100_000)) if schedule(t) <= NOTHING), None)
    if gone is not None:
        unit = schedule.over.removesuffix("s")
        size = "0" if schedule(gone) == 0 else f"below {NOTHING:g} of lr"
        remedy = f"{where}.horizon = {ends}, or a floor above 0"
        if schedule.kind in ("step", "exponential"):
            remedy = f"a larger {where}.factor" + (" or every" if schedule.kind == "step" else "")
        yield (
            f"the learning rate is {size} from {unit} {gone + 1} on, of {ends}, so that nothing is learned from there "
            f"on: set {remedy}."
        )


def _of_trainer(trainer: LocalSGD, algorithm: Algorithm) -> Iterator[str]:
    """Numbers that others overrule."""
    if trainer.steps is not None and trainer.epochs != 1:
        yield (
            f"algorithm.trainer.epochs = {trainer.epochs} has no effect, since algorithm.trainer.steps = "
            f"{trainer.steps} sets how long clients train: leave one of them out."
        )
    needs = algorithm.flows()[-1].needs
    if trainer.validation and "validation_loss" not in needs:
        yield (
            f"algorithm.trainer.validation = {trainer.validation:g} keeps examples from training that no stage "
            'looks at: leave it out, or weigh by them (WeighByQuality(by="validation")).'
        )
    pull = algorithm.flows()[-1].proximal
    if trainer.lr * pull >= 2 * (1 + trainer.momentum):
        yield (
            "each local step overshoots the model that it is pulled back to, since lr times the strength of the pull "
            f"is {trainer.lr * pull:g}, and steps grow from {2 * (1 + trainer.momentum):g} on: lower "
            "algorithm.trainer.lr or the strength (mu, alpha)."
        )


def _of_steps(trainer: LocalSGD, algorithm: Algorithm, counts: Sequence[int]) -> Iterator[str]:
    """The settings that depend on the number of local steps."""
    if not counts:
        return
    kinds = {type(stage): stage for stage in algorithm.chain}
    if max(counts) == 1:
        reasons = {FedProx: "a first step begins at the model that it is pulled back to", ECGR: "nothing is selected"}
        for kind in reasons.keys() & kinds.keys():
            yield f"{kind.__name__} has no effect where every client makes one local step: {reasons[kind]}."
    scaffold = kinds.get(Scaffold)
    ratio = max(counts) / min(counts)
    corrects = isinstance(scaffold, Scaffold) and scaffold.correct == "gradient"
    if corrects and trainer.momentum >= HEAVY and ratio >= UNEQUAL:
        yield (
            f"SCAFFOLD with momentum {trainer.momentum:g} and clients that make from {min(counts)} to {max(counts)} "
            "local steps may blow up: a client of few steps has gradients that momentum has hardly moved yet, and its "
            "control variate is an average of few. Set algorithm.trainer.momentum = 0, the same number of steps for "
            'all (algorithm.trainer.steps), or Scaffold(correct="step").'
        )


def _of_chain(algorithm: Algorithm, averaged: bool) -> Iterator[str]:
    """Effects of a stage that its name does not show."""
    if averaged and any(isinstance(stage, Clip) for stage in algorithm.chain):
        yield (
            "Clip takes the averaged statistics of the model (BatchNorm) into the norm, since they leave the client "
            "too: where they are large, little is left of the delta. Keep them at the clients (task.buffers = "
            '"local"), or use GroupNorm.'
        )
