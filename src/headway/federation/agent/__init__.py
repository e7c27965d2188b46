"""The agent: a participant on its owner's data, which answers the requests of a server."""
