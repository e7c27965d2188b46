"""Results of grids, made from values."""

from headway.experiment.grid_result import Cell, GridFacts, GridResult
from headway.experiment.trials import Trial, failed_trial


def grid_trial(cell, value, seed=0, **figures):
    return Trial(cell.method, seed, (1,), (value,), (0.0,), (0,), {}, seconds=0.25, figures=figures)


def grid_result(values, higher=True, failed=(), figures=None):
    """A result of values by (rule, attack, setting), of one seed or as a list of several; figures: by cell."""
    trials = []
    for key, value in values.items():
        cell = Cell(*key)
        for seed, each in enumerate(value if isinstance(value, list) else [value]):
            found = (figures or {}).get(key, {})
            trials.append(
                failed_trial(cell.method, seed, "diverged") if cell in failed else grid_trial(cell, each, seed, **found)
            )
    return GridResult.of([Cell(*key) for key in values], trials, higher)


def grid_facts(metric="accuracy", **changes):
    given = {
        "name": "mine",
        "data": "digits",
        "where": "on the central test set",
        "attackers": ("c5", "c6"),
        "clients": 7,
        "from_round": 1,
        "knows": "everyone",
        "rounds": 3,
        "seeds": 1,
        "partitions": ("iid",),
    }
    return GridFacts(metric=metric, **{**given, **changes})
