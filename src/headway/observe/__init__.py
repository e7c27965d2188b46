"""Records of a run, and figures and texts for readers."""
