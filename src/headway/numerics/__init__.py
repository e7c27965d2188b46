"""Numbers with nothing of federated learning in them: keys, exact sums, Gram matrices, units."""
