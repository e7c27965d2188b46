"""The connection to a Ray cluster."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import warnings
from typing import Any

from headway.core.errors import ConfigError
from headway.engines.processes.process_pool import cores
from headway.engines.ray.actors import first_line, import_ray

ANSWER_S = 5.0  # for a cluster to answer at its address


class ClusterConnection:
    """The connection of this process to a Ray cluster.

    address: of the cluster, `host:port` or "auto"; `None` for RAY_ADDRESS, or else a cluster of this machine alone.
    ours: whether the connection is to be ended here; a program that has called `ray.init` keeps its own.
    """

    def __init__(self, address: str | None) -> None:
        self.address = address
        self.connected = self.ours = False

    def open(self, workers: int | None) -> int:
        """Connects, silently; the number of workers, one per core where none is given.

        Raises:
            ConfigError: if Ray is not installed, no cluster answers, or it has fewer cores than workers.
        """
        ray, address = import_ray(), self.address or os.environ.get("RAY_ADDRESS") or "local"
        if not ray.is_initialized():
            _check_address(address)
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            alone: dict[str, Any] = {"num_cpus": workers or cores(), "include_dashboard": False}
            before = signal.getsignal(signal.SIGTERM)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of Ray's own making
                    ray.init(
                        address=address,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        **(alone if address == "local" else {}),
                    )
            except Exception as error:  # of any class: a node that is slow to start is a plain Exception
                raise _unreachable(address, first_line(error)) from error
            finally:
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, before)  # Ray puts its own there
            self.ours = True
        self.connected = True
        found = int(sum(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]))
        count = workers or max(found, 1)
        if count > found:
            self.close()
            raise ConfigError(
                f"needed a core for each of {count} workers, found {found} on the Ray cluster. It is caused by "
                "the number of workers: use fewer, or add nodes to the cluster."
            )
        return count

    def close(self) -> None:
        """Ends the connection, and a cluster of this machine alone."""
        if self.connected and self.ours and import_ray().is_initialized():
            import_ray().shutdown()
        self.connected = self.ours = False


def living_nodes() -> list[str]:
    """The names of the cluster's living nodes."""
    return [node["NodeID"] for node in import_ray().nodes() if node["Alive"]]


def _check_address(address: str) -> None:
    """Refuses, within seconds, an address where nothing answers.

    Raises:
        ConfigError: saying what was found.
    """
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdigit():
        raise ConfigError(
            f'the address of a Ray cluster is "host:port" of its head node, or "auto" for the cluster on this machine, '
            f"found {address!r}. Run on one of the cluster's nodes."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from error


def _unreachable(address: str, why: str) -> ConfigError:
    where = {"local": "on this machine", "auto": "that runs on this machine"}.get(address, f"at {address}")
    do = "see whether Ray works here" if address == "local" else 'start one ("ray start --head"), or leave address out'
    return ConfigError(f"needed a Ray cluster {where}, found none that answers: {why}. Correct the address, or {do}.")
