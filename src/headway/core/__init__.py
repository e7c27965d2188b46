"""The ideas of Headway, with no I/O: torch and the standard library only."""
