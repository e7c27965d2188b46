"""Partitions: how examples are divided among clients."""
