"""A relay: a client of one server, and a server to clients of its own."""
