"""Keepers of the clients' memory, here as objects of this process: what is lost, copied and moved, and when it is too
late."""

import pytest
import torch

import headway as hw
from headway.engines.ray import state_replica as keeper_module
from headway.engines.ray.replicated_state import RemoteMemory
from headway.engines.ray.state_replica import StateReplica
from headway.engines.worker_pool import Lost

CLIENTS = ("a", "b", "c", "d")


class Actors:
    """A cluster in this process: an actor that is `ended` is lost, whatever it is called for."""

    def __init__(self, *nodes):
        self.nodes, self.made, self.ended, self.follows = list(nodes), {}, [], True

    def make(self, clients, node):
        actor = StateReplica(clients)
        self.made[actor] = node if self.follows else self.nodes[0]
        return actor

    def put(self, value):
        return value

    def call(self, actor, method, *arguments):
        if actor in self.ended:
            return self.lost
        given = [each() if callable(each) else each for each in arguments]
        done = self.made[actor] if method == "node" else getattr(actor, method)(*given)
        return lambda: done

    def lost(self):
        raise Lost("its node is gone")

    def get(self, call):
        return call()

    def kill(self, actor):
        self.ended.append(actor)


def cluster(*nodes):
    actors = Actors(*nodes)
    memory = RemoteMemory(CLIENTS, actors)
    memory.open(len(nodes), actors.make, lambda: actors.nodes)
    return actors, memory


def value(number):
    return {"stage": {"c": torch.full((2,), float(number))}}


def round_(memory, number):
    for client in CLIENTS:
        memory.propose(client, (number, 0), value(number))
    memory.settle((number, 0), CLIENTS)


def held(memory):
    return [float(memory.get(client)["stage"]["c"][0]) for client in CLIENTS]


def homes(actors, memory):
    return [sorted(actors.made[keeper] for keeper in own.keepers) for own in memory.ranges]


def test_each_range_has_two_keepers_on_two_nodes():
    actors, memory = cluster("one", "two", "three")
    assert all(len(set(each)) == 2 for each in homes(actors, memory))


@pytest.mark.parametrize("which", [0, 1])
def test_a_lost_keeper_is_replaced_at_the_verdict_with_what_counts(which):
    actors, memory = cluster("one", "two")
    round_(memory, 0)
    actors.ended.append(memory.ranges[0].keepers[which])
    round_(memory, 1)
    assert memory.notes == ["a keeper of the memory of a to b was lost (its node is gone) and replaced"]
    assert homes(actors, memory) == [["one", "two"]] * 2
    actors.ended.append(memory.ranges[0].keepers[0])  # the copy alone
    assert held(memory) == [1.0] * 4


def test_all_keepers_of_a_node_are_replaced_elsewhere_and_go_back_when_there_is_another_node():
    actors, memory = cluster("one", "two")
    round_(memory, 0)
    actors.ended += [keeper for keeper, node in actors.made.items() if node == "two"]
    actors.nodes.remove("two")
    round_(memory, 1)
    assert homes(actors, memory) == [["one", "one"]] * 2
    actors.nodes.append("new")
    before = held(memory)
    memory.settle((2, 0), ())
    assert homes(actors, memory) == [["new", "one"]] * 2
    actors.ended += [keeper for keeper, node in actors.made.items() if node == "one"]
    assert held(memory) == before == [1.0] * 4


def test_keepers_that_were_put_on_one_node_are_moved_apart():
    actors = Actors("one", "two")
    actors.follows, made = False, []

    def make(clients, node):
        made.append(node)
        actors.follows = len(made) > 4  # the first four are not where they should be
        return actors.make(clients, node)

    memory = RemoteMemory(CLIENTS, actors)
    memory.open(2, make, lambda: actors.nodes)
    assert homes(actors, memory) == [["one", "two"]] * 2


def test_a_range_that_lost_both_is_said_with_both_reasons():
    actors, memory = cluster("one", "two")
    round_(memory, 0)
    actors.ended += memory.ranges[1].keepers
    with pytest.raises(
        hw.HeadwayError, match=r"memory of the clients c to d is lost.*within a round \(its node is gone\)"
    ):
        round_(memory, 1)


def test_what_a_worker_missed_is_not_asked_by_others_and_ends_at_the_verdict():
    actors, memory = cluster("one", "two")
    round_(memory, 0)
    worker = RemoteMemory(CLIENTS, actors)
    worker.begin(memory.ranges, {(0, 0): "it did not answer"})
    worker.propose("a", (1, 0), value(1))
    worker.flush()
    missing, kept = memory.ranges[0].keepers
    memory.missed |= worker.missed
    memory.settle((1, 0), ["a"])
    assert held(memory) == [1.0, 0.0, 0.0, 0.0]
    assert missing in actors.ended
    assert kept in memory.ranges[0].keepers


def test_a_call_that_is_made_twice_has_the_effect_of_one():
    keeper = StateReplica(CLIENTS)
    stacked = {"stage": {"c": torch.ones(1, 2).numpy()}}
    for tag in ((0, 0), (1, 0)):
        for _ in range(2):
            keeper.propose(["a"], tag, stacked)
        for _ in range(2):
            keeper.settle(tag, ["a"])
        keeper.propose(["a"], tag, {"stage": {"c": torch.zeros(1, 2).numpy()}})  # of a round that is over
    assert keeper.clients() == keeper.changed() == ["a"]
    assert keeper.get(["a"], None)[0]["stage"]["c"].tolist() == [1.0, 1.0]


def test_the_node_of_an_actor_is_what_ray_calls_it(monkeypatch):
    monkeypatch.setattr(keeper_module, "node_here", lambda: "one")
    assert StateReplica(CLIENTS).node() == "one"
