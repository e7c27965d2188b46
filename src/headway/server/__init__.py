"""What runs at the server: the guard, the collector and the coordinator."""
