"""Stages that make updates smaller on their way, or integers."""

from headway.stages.compression.quantize import Quantize
from headway.stages.compression.random_k import RandomK

__all__ = ["Quantize", "RandomK"]
