"""The facts on which server and agents must agree."""

import torch
from torch import nn

import headway as hw
from headway.federation.job_facts import own_versions, task_differences, task_facts, version_differences
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key


def facts(seed=0, **options):
    task = hw.Task(**{"model": lambda: nn.Linear(3, 2), **options})
    return task_facts(FlatModule(task, Key.root(seed)))


def frozen():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    return model


def test_the_same_task_has_the_same_facts_and_another_is_named_with_both_sides():
    assert facts() == facts()
    assert not list(task_differences(facts(), facts(seed=1)))
    wider = facts(model=lambda: nn.Linear(3, 4), metrics=("accuracy", "auroc"))
    found = dict(task_differences(facts(), wider))
    assert found["parameters = 8"] == "parameters = 16"
    assert found["metrics = accuracy"] == "metrics = accuracy, auroc"
    assert any(name.startswith("layout = ") for name in found)


def test_other_frozen_weights_are_a_difference():
    one, same, other = facts(0, model=frozen), facts(0, model=frozen), facts(1, model=frozen)
    assert one == same
    assert [needed.split()[0] for needed, _ in task_differences(one, other)] == ["frozen"]


def test_averaged_statistics_are_counted():
    def model():
        return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))

    assert facts(model=model, buffers="average").statistics == 4
    assert facts(model=model, buffers="local").statistics == 0


def test_only_versions_on_which_the_numbers_depend_must_be_the_same():
    mine = own_versions()
    assert mine.torch == torch.__version__
    assert not list(version_differences(mine, mine.model_copy(update={"headway": "9", "torch": "9"})))
    (difference,) = version_differences(mine, mine.model_copy(update={"draws": mine.draws + 1}))
    assert difference[0].startswith(f"draws {mine.draws}")
    assert difference[1].startswith(f"draws {mine.draws + 1}")
