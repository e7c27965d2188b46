"""The stages, one idea each.  `register` makes one of your own known by its class name."""

from headway.core.stage import stages as _registry
from headway.stages.aggregators.agnostic import AFL
from headway.stages.aggregators.mean import Mean
from headway.stages.clipping import Clip
from headway.stages.compression import Quantize, RandomK
from headway.stages.local_rules import FedDyn, FedProx, Scaffold
from headway.stages.normalisation import FedNova, QFedAvg
from headway.stages.privacy import AdaptiveClip, GaussianNoise, LocalGaussian, MatrixNoise, Skellam
from headway.stages.quality_weighting import WeighByQuality
from headway.stages.robust import (
    NNM,
    AdaptiveRobustClipping,
    Bucketing,
    Bulyan,
    CentredClipping,
    ClientMomentum,
    FLTrust,
    GeometricMedian,
    Krum,
    LossValidation,
    MajorityVote,
    MeanAroundMedian,
    Median,
    MinimumDiameter,
    MultiKrum,
    NormBound,
    TrimmedMean,
)
from headway.stages.secure_aggregation.secure_sum import SecureSum
from headway.stages.server_optimizers import AverageModel, ServerAdagrad, ServerAdam, ServerSGD, ServerYogi
from headway.stages.staleness import Rebase, Staleness
from headway.stages.step_combination import ECGR
from headway.stages.weighting import Weigh

__all__ = [
    "TrimmedMean",
    "NormBound",
    "NNM",
    "MultiKrum",
    "MinimumDiameter",
    "Median",
    "MeanAroundMedian",
    "MajorityVote",
    "LossValidation",
    "Krum",
    "GeometricMedian",
    "FLTrust",
    "ClientMomentum",
    "CentredClipping",
    "Bulyan",
    "Bucketing",
    "AdaptiveRobustClipping",
    "AFL",
    "AdaptiveClip",
    "AverageModel",
    "ECGR",
    "Clip",
    "FedDyn",
    "FedNova",
    "FedProx",
    "GaussianNoise",
    "LocalGaussian",
    "MatrixNoise",
    "Mean",
    "QFedAvg",
    "Quantize",
    "RandomK",
    "Rebase",
    "Scaffold",
    "SecureSum",
    "ServerAdagrad",
    "ServerAdam",
    "ServerSGD",
    "ServerYogi",
    "Skellam",
    "Staleness",
    "Weigh",
    "WeighByQuality",
    "register",
]

register = _registry.register
