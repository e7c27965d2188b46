"""Stages that make updates smaller on their way, or integers."""
