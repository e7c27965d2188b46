"""The memory of clients between rounds, and its commits."""
