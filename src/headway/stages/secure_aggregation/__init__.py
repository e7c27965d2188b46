"""The secure sum: the server sees the sum of all updates, and no single one."""
