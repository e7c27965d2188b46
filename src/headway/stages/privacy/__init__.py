"""Noise that hides single clients: differential privacy as stages of a chain."""
