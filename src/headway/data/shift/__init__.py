"""Shifts of features: clients whose inputs look different."""
