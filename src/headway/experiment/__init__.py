"""Whole experiments: runs, run files, trials and comparisons."""
