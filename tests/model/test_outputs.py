"""A model that returns more than one tensor: one sentence with the remedy, and an option that selects what is meant."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from mk import blobs, toml
from torch import nn

import headway as hw

Pair = namedtuple("Pair", ["hidden", "logits"])


@dataclass
class Held:
    logits: torch.Tensor
    hidden: torch.Tensor


class Net(nn.Module):
    def __init__(self, kind="tensor", evaluated=None):
        super().__init__()
        self.body, self.head, self.kind, self.evaluated = nn.Linear(10, 6), nn.Linear(6, 4), kind, evaluated or kind

    def forward(self, x):
        hidden = self.body(x).tanh()
        logits = self.head(hidden)
        return {
            "tensor": lambda: logits,
            "dict": lambda: {"hidden": hidden, "logits": logits},
            "ordered": lambda: OrderedDict(logits=logits, hidden=hidden),
            "tuple": lambda: (hidden, logits),
            "list": lambda: [hidden, logits],
            "named": lambda: Pair(hidden, logits),
            "object": lambda: Held(logits, hidden),
            "nothing": lambda: None,
        }[self.kind if self.training else self.evaluated]()


def data():
    x, y = blobs(96)
    parts = torch.arange(96).split(12)
    store = hw.Examples(torch.tensor(x), torch.tensor(y))
    train = {f"c{place}": part for place, part in enumerate(parts[::2])}
    return hw.FederatedData("made", store, train, {f"c{p}": part for p, part in enumerate(parts[1::2])}, classes=4)


def run(kind, output=None, engine=None, evaluated=None, recipe="fedavg"):
    algorithm = hw.recipes.recipe(recipe, trainer=hw.LocalSGD(lr=0.1, batch_size=4))
    task = hw.Task(lambda: Net(kind, evaluated), output=output)
    made = hw.Run(algorithm, data(), task, rounds=2, engine=engine, seed=1)
    return made, list(made)


SELECTED = [("dict", "logits"), ("ordered", "logits"), ("tuple", 1), ("tuple", -1), ("list", 1), ("named", "logits")]


@pytest.mark.parametrize(("kind", "output"), [*SELECTED, ("named", 1), ("object", "logits"), ("tensor", "logits")])
def test_what_is_selected_trains_like_a_tensor(kind, output):
    plain, reports = run("tensor")
    made, others = run(kind, output)
    assert torch.equal(made.state.params, plain.state.params)
    assert others[-1].metrics == reports[-1].metrics
    assert kind == "tensor" or not isinstance(made.model()(torch.zeros(2, 10)), torch.Tensor), "the model is as it was"


@pytest.mark.parametrize("recipe", ["fedavg", "moon", "scaffold+ecgr", "qfedavg"])
@pytest.mark.parametrize("engine", [hw.LocalEngine, lambda: hw.LocalEngine(lanes=4)], ids=["alone", "lanes"])
def test_on_every_engine_and_method(engine, recipe):
    plain, made = run("tensor", engine=engine(), recipe=recipe)[0], run("dict", "logits", engine(), recipe=recipe)[0]
    assert torch.equal(made.state.params, plain.state.params)
    assert (made.engine.execution.batched.reason is None) == (plain.engine.execution.batched.reason is None)


def test_a_model_that_returns_more_while_it_trains():
    """As those with auxiliary heads do; evaluation then takes the tensor, and not its first example."""
    plain, made = run("tensor"), run("tuple", 1, evaluated="tensor")
    assert made[1][-1].metrics == plain[1][-1].metrics


@pytest.mark.parametrize(
    ("kind", "output", "sentence"),
    [
        ("dict", None, r'a dict with the keys hidden, logits.*such as task.output = "hidden"'),
        ("tuple", None, r"a tuple of 2 \(tensor \[7, 6\], tensor \[7, 4\]\).*such as task.output = 0"),
        ("object", None, "a value of type Held.*name a field of it as task.output"),
        ("nothing", None, "the model returns None"),
        ("dict", "logit", r"keys hidden, logits .did you mean 'logits'"),
        ("dict", 1, "task.output = 1, but the model returns a dict"),
        ("tuple", 2, "task.output = 2, but the model returns a tuple of 2"),
        ("tuple", "logits", 'task.output = "logits", but the model returns a tuple of 2'),
        ("object", "nowhere", 'task.output = "nowhere", but the model returns a value of type Held'),
    ],
)
def test_what_selects_nothing_is_refused_with_the_remedy(kind, output, sentence):
    with pytest.raises(hw.ConfigError, match=sentence):
        run(kind, output)


def test_also_where_only_evaluation_returns_more():
    with pytest.raises(hw.ConfigError, match="a tuple of 2"):
        run("tensor", evaluated="tuple")


@pytest.mark.parametrize("output", [True, 1.5, ["logits"]])
def test_an_output_that_is_no_name_is_refused(output):
    with pytest.raises(hw.ConfigError, match="must be a name or a place"):
        hw.Task(Net, output=output)


def test_in_a_run_file(headway, tmp_path):
    x, y = blobs(60)
    np.savez("made.npz", x=x, y=y, client=np.arange(60) % 3)
    (tmp_path / "own_outputs.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, outputs):\n        super().__init__()\n"
        "        self.inner = nn.Linear(10, outputs)\n"
        "    def forward(self, x):\n        return {'logits': self.inner(x)}\n"
    )
    toml("made.toml", 'source = "made.npz"', 'name = "own_outputs:Net"')
    code, _, err = headway("run", "made.toml")
    assert code == 1
    assert 'name the one that is meant, such as task.output = "logits"' in err
    assert headway("run", "made.toml", "--set", "task.output=logits", "--lanes", 2, "--out", "one")[0] == 0
    assert headway("resume", "one", "--rounds", 4)[0] == 0
