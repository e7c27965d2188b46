"""The parts that run at the server: the guard, the collector and the coordinator."""
