"""Messages between a server and its clients, and the rules of a round, without I/O."""
