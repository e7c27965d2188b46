"""The audit: attacks on what the server, or a curious client, would see under a chain, before and after protections."""
