"""Federated data sets: examples, clients, splits, labels."""
