"""Examples of every sampler, and clients' histories for them."""

from __future__ import annotations

import random

import torch

import headway as hw
from headway.data.dataset.owners import client_ids
from headway.protocol.client_history import ClientHistory
from headway.protocol.reports import ClientReport

N = 9
PEOPLE = client_ids(N)
EVERY = frozenset({"sizes", "participation", "losses", "times", "availability"})
COUNTED = {
    "Uniform": hw.Uniform(count=4),
    "BySize": hw.BySize(count=4),
    "RoundRobin": hw.RoundRobin(count=4),
    "Spaced": hw.Spaced(count=4, separation=2),
    "LeastAvailable": hw.LeastAvailable(count=4),
    "PowerOfChoice": hw.PowerOfChoice(count=4, candidates=7),
    "rpow-d": hw.PowerOfChoice(count=4, candidates=7, refresh=False),
    "Oort": hw.Oort(count=4),
}
ALL = COUNTED | {
    "All": hw.All(),
    "Fixed": hw.Fixed(clients=PEOPLE[2:5]),
    "Poisson": hw.Poisson(rate=0.4),
    "truncated Poisson": hw.Poisson(rate=0.8, most=3),
}


def history(names=PEOPLE, rounds=6, seed=0):
    """A history of some rounds: sizes, losses, times and participation of all sorts, and clients never asked."""
    drawn = random.Random(seed)
    made = ClientHistory(names, torch.tensor([drawn.randint(1, 40) for _ in names]), EVERY)
    for round_ in range(rounds):
        available = [name for name in names if drawn.random() < 0.7]
        cohort = available[: len(available) // 2]
        reports = []
        for name in cohort:
            metrics = {"train_loss": drawn.expovariate(1.0), "asked_s": 1.0, "ended_s": 1.0 + drawn.random()}
            kind = "counted" if drawn.random() < 0.8 else "dropped"
            reports.append(ClientReport(name, kind, metrics=metrics))
        made.record_round(round_, available, cohort, reports)
    return made


def measured(sampler, clients, round_, key, known):
    """The draw, after the losses that it reads were measured."""
    asked = sampler.measured(clients, round_, key, known)
    if not asked:
        return sampler.draw(clients, round_, key, known)
    known.set_fresh_losses(
        [ClientReport(c, "counted", metrics={"train_loss": float(len(c) * 7919 % 31)}) for c in asked]
    )
    return sampler.draw(clients, round_, key, known)
