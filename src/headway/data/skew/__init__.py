"""Measures of how unlike the data of clients are."""
