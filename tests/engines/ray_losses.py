"""Nodes of a Ray cluster on this machine are lost, and keepers of memory killed, at random moments of rounds; each run
must end with the bits of the undisturbed one.

    python tests/engines/ray_losses.py nodes 2 --losses 50        # of a cluster of two nodes
    python tests/engines/ray_losses.py keepers 3 --losses 50      # on three nodes

It prints a line for each run, and ends with exit code 1 if one failed.  `make soak` runs it with few losses.
"""

import argparse
import os
import random
import signal
import sys
import threading
import time

import ray
import torch
from ray.cluster_utils import Cluster
from test_ray_engine import kept, same, started, trained

import headway as hw

ROUNDS = 9
LOSS_IN = range(2, ROUNDS, 2)  # a second loss before the first is made good would be one too many
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
OPTIONS = {"recipe": "scaffold+ecgr", "rounds": ROUNDS}


class Losses:
    """A cluster of so many nodes with a core each, whose first is the driver's and stays.

    patient: with Ray's own health checks, which notice a lost node after a quarter of a minute.
    """

    def __init__(self, kind: str, nodes: int, seed: int, patient: bool = False) -> None:
        self.kind, self.chance = kind, random.Random(seed)
        head = {"num_cpus": 1, "include_dashboard": False} | ({} if patient else {"_system_config": dict(QUICK)})
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.others = [self.cluster.add_node(num_cpus=1) for _ in range(nodes - 1)]
        self.cluster.wait_for_nodes()
        self.nodes, self.count, self.notes, self.typical_s = nodes, 0, [], 1.0

    def run(self, losses: int, whole: tuple) -> None:
        """One run with so many losses."""
        run = started(**OPTIONS, engine=hw.RayEngine(self.nodes, lanes=1, address=self.cluster.address))
        reports, when = [], dict.fromkeys(LOSS_IN[:losses])
        try:
            begun = time.monotonic()
            timer = None
            for report in run:
                reports.append(report)
                self.notes += report.notes
                if timer is not None:
                    print(f"  round {report.round}: {report.seconds:.1f} s, {'; '.join(report.notes)}", flush=True)
                if timer is not None:
                    timer.join()
                    self.mend()
                elif report.round > 1:
                    self.typical_s = time.monotonic() - begun
                timer, begun = None, time.monotonic()
                if report.round + 1 in when:
                    timer = threading.Timer(self.chance.random() * self.typical_s, self.lose, (run,))
                    timer.start()
            same(whole, (run.state.params, kept(run), reports))
        finally:
            run.close()

    def lose(self, run: hw.Run) -> None:
        """Ends a node or a keeper at once."""
        if self.kind == "nodes":
            node = self.others.pop(self.chance.randrange(len(self.others)))
            self.cluster.remove_node(node, allow_graceful=False)
        else:
            keeper = self.chance.choice(self.chance.choice(run.memory.ranges).keepers)
            os.kill(ray.get(keeper.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)
        self.count += 1

    def mend(self) -> None:
        """As many nodes as before."""
        while len(self.others) < self.nodes - 1:
            self.others.append(self.cluster.add_node(num_cpus=1))
        self.cluster.wait_for_nodes()

    def close(self) -> None:
        """Ends the cluster."""
        ray.shutdown()
        self.cluster.shutdown()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("nodes", "keepers"))
    parser.add_argument("nodes", type=int)
    parser.add_argument("--losses", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patient", action="store_true", help="with Ray's own, slower health checks")
    given = parser.parse_args()
    torch.set_num_threads(1)
    whole, failed = trained(**OPTIONS, engine=hw.ProcessEngine(1, lanes=1)), 0
    losses = Losses(given.kind, given.nodes, given.seed, given.patient)
    try:
        while losses.count < given.losses:
            begun, before = time.monotonic(), losses.count
            try:
                losses.run(min(len(LOSS_IN), given.losses - before), whole)
                found = "the same bits"
            except (hw.HeadwayError, AssertionError) as error:
                failed, found = failed + 1, f"{type(error).__name__}: {error}"
            lost = f"{losses.count - before} {given.kind} lost, {losses.count} in all"
            print(f"{lost}; {time.monotonic() - begun:.0f} s: {found}", flush=True)
            if losses.count == before:
                failed += 1
                break
        print("\n".join(sorted(set(losses.notes))), flush=True)
    finally:
        losses.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
