"""What clients keep between rounds, and when it is committed."""
