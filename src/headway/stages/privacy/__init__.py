"""Noise that hides single clients: differential privacy as stages of a chain."""

from headway.stages.privacy.adaptive_clip import AdaptiveClip
from headway.stages.privacy.gaussian import GaussianNoise
from headway.stages.privacy.local_gaussian import LocalGaussian
from headway.stages.privacy.matrix_noise import MatrixNoise
from headway.stages.privacy.skellam import Skellam

__all__ = ["AdaptiveClip", "GaussianNoise", "LocalGaussian", "MatrixNoise", "Skellam"]
