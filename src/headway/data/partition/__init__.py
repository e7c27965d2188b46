"""Partitions: rules that divide examples among clients."""

from headway.data.partition.allocation import Partitioner
from headway.data.partition.partitioners import PARTITIONERS, partitioner, register_partition

__all__ = ["PARTITIONERS", "Partitioner", "partitioner", "register_partition"]
