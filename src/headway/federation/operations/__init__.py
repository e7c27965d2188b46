"""Status, metrics and the live page of a server."""
