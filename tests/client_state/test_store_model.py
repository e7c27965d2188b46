"""The store of tables agrees with a dictionary of tensors, whatever is done in whatever order."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway.client_state import shared_memory as shared
from headway.client_state.store import MemoryStore

CLIENTS = ["a", "b", "c", "d"]
LIKE = {
    ("Scaffold", "control"): torch.zeros(5),
    ("trainer", "head"): torch.zeros(2, 3, dtype=torch.float64),
    ("trainer", "count"): torch.zeros((), dtype=torch.int64),
    ("trainer", "seen"): torch.zeros(3, dtype=torch.bool),
    ("Feedback", "half"): torch.zeros(1, dtype=torch.bfloat16),
    ("Feedback", "nothing"): torch.zeros(0),
}


class Model:
    """The commit rule in the fewest words, with every version ever saved."""

    def __init__(self):
        self.committed, self.pending, self.versions = {}, {}, {0: {}}

    def propose(self, client, tag, memory):
        if memory:
            self.pending[client] = (tag, memory)

    def settle(self, tag, counted):
        for client, (of, memory) in self.pending.items():
            if client in counted and of == tag:
                self.committed[client] = memory
        self.pending = {}

    def save(self, round_):
        self.versions[round_] = dict(self.committed)

    def load(self, round_):
        self.versions = {at: kept for at, kept in self.versions.items() if at <= round_}
        self.committed, self.pending = dict(self.versions[max(self.versions)]), {}


def memory_of(keys, value):
    memory = {}
    for label, name in keys:
        memory.setdefault(label, {})[name] = torch.full_like(LIKE[label, name], value)
    return memory


tags = st.tuples(st.integers(0, 2), st.integers(0, 1))
some = st.lists(st.sampled_from(CLIENTS), unique=True)
keys = st.lists(st.sampled_from(sorted(LIKE)), unique=True)
actions = st.one_of(
    st.tuples(st.just("propose"), st.sampled_from(CLIENTS), tags, keys),
    st.tuples(st.just("stacked"), some, tags, keys),
    st.tuples(st.just("settle"), tags, some),
    st.tuples(st.just("save")),
    st.tuples(st.just("load"), st.integers(0, 4), st.booleans()),
)


def assert_same(store, model):
    assert list(store.clients()) == sorted(model.committed)
    for client in CLIENTS:
        found, expected = store.get(client), model.committed.get(client)
        assert (found is None) == (expected is None)
        if expected is None:
            continue
        assert {label: set(kept) for label, kept in found.items()} == {k: set(v) for k, v in expected.items()}
        for label, kept in expected.items():
            for name, tensor in kept.items():
                assert found[label][name].dtype == tensor.dtype
                assert found[label][name].shape == tensor.shape
                assert torch.equal(found[label][name], tensor)


@pytest.mark.parametrize("anonymous", [1 << 20, 0], ids=["anonymous", "file"])
@given(todo=st.lists(actions, max_size=25))
def test_any_sequence(anonymous, todo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    before, shared.ANONYMOUS = shared.ANONYMOUS, anonymous
    try:
        act(todo, folder)
    finally:
        shared.ANONYMOUS = before


def act(todo, folder):
    path, store, model, round_ = folder / "memory.sqlite", MemoryStore(CLIENTS, folder), Model(), 0
    for value, (verb, *given_) in enumerate(todo, start=1):
        if verb == "propose":
            client, tag, named = given_
            store.propose(client, tag, memory_of(named, value))
            model.propose(client, tag, memory_of(named, value))
        elif verb == "stacked":
            clients, tag, named = given_
            each = [memory_of(named, value + place) for place in range(len(clients))]
            stacked = {
                label: {name: torch.stack([m[label][name] for m in each]) for name in kept}
                for label, kept in (each[0] if each else {}).items()
            }
            store.propose_stacked(clients, tag, stacked)
            for client, memory in zip(clients, each, strict=True):
                model.propose(client, tag, memory)
        elif verb == "settle":
            tag, counted = given_
            store.settle(tag, counted)
            model.settle(tag, counted)
        elif verb == "save":
            round_ += 1
            store.save(path, round_, oldest_kept=0)
            model.save(round_)
        else:
            back, afresh = given_
            round_ = max(round_ - back, 0)
            store = MemoryStore(CLIENTS, folder) if afresh else store
            store.load(path, round_)
            model.load(round_)
        assert_same(store, model)


def test_a_proposal_is_a_copy():
    store, memory = MemoryStore(CLIENTS), memory_of([("Scaffold", "control")], 1.0)
    store.propose("a", (0, 0), memory)
    kept = copy.deepcopy(memory)
    memory["Scaffold"]["control"].fill_(9.0)
    store.settle((0, 0), ["a"])
    assert torch.equal(store.get("a")["Scaffold"]["control"], kept["Scaffold"]["control"])
