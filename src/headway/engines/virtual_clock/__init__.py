"""Simulated time: devices, availability, late and lost clients."""
