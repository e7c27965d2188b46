"""The constraints of a federation, measured from its data and a few rounds, and what follows from it."""
