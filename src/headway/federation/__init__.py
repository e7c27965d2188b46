"""Federations of real machines: a server, and agents that answer its requests over HTTPS."""
