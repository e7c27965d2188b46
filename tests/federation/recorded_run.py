"""A run of a server with manifests, for tests: clients in threads, the folder with its spool, events and journal."""

from __future__ import annotations

import threading
from pathlib import Path

from network import Network
from raw_client import RawClient
from toys import blobs, linear_task

import headway as hw
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.receipts import signer
from headway.federation.spool.round_manifests import RoundManifests
from headway.federation.spool.spool import Spool

SIZES = (7, 12, 5, 9)
TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2)


def recorded_run(
    folder: Path,
    rounds: int = 3,
    algorithm=None,
    *,
    stop_after: int | None = None,
    identity=None,
    keep_rounds: int = 20,
    gate=None,
    others=(),
    receipts=None,
    by_hand=None,
    grace_s=60.0,
    **options,
) -> hw.Run:
    """A run, or the rest of one, to its end or until `stop_after` rounds are over.

    by_hand: what a client does instead, with a `RawClient`.
    """
    algorithm = algorithm or hw.recipes.recipe("fedavg", trainer=TRAINER)
    data, task = blobs(SIZES), linear_task(dtype="float64")
    spool, log, resume = Spool(folder / "spool", grace_s=grace_s), EventLog(folder), (folder / "run.json").exists()
    network = Network.of(algorithm, task, spool, log, rounds, wait_limit_s=60.0, expected=frozenset(data.clients))
    sign = signer(identity)

    def signed(receipt):
        """The signed receipt, which an agent would keep."""
        made = sign(receipt)
        if receipts is not None and receipt.verdict != "answered":
            receipts.append(made)
        return made

    network.engine.channel.sign = signed
    by_hand = by_hand or {}
    network.join(algorithm, task, data, [each for each in data.clients if each not in by_hand], gate=gate)
    raws = [threading.Thread(target=act, args=(RawClient(network.url, name),)) for name, act in by_hand.items()]
    for raw in raws:
        raw.start()
    manifests = RoundManifests(folder, network.engine, spool, identity, keep_rounds)
    run = None
    try:
        run = hw.Run(
            algorithm,
            data,
            task,
            rounds=rounds,
            engine=network.engine,
            folder=folder,
            resume=resume,
            checkpoint_every=1,
            observers=[manifests, *others],
            **options,
        )
        for report in run:
            if report.round == stop_after:
                break
    finally:
        if run is not None:
            run.close()
        network.close()
        for raw in raws:
            raw.join(60)
    return run
