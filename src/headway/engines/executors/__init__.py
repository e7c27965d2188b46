"""Executors: ways to train the clients of a group in this process, one after another or as one batch."""
