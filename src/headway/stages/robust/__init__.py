"""Aggregators that withstand f clients whose updates are anything at all."""

from headway.stages.robust.central_points import CentredClipping as CentredClipping
from headway.stages.robust.central_points import GeometricMedian as GeometricMedian
from headway.stages.robust.central_points import NormBound as NormBound
from headway.stages.robust.client_momentum import ClientMomentum as ClientMomentum
from headway.stages.robust.coordinate_rules import MeanAroundMedian as MeanAroundMedian
from headway.stages.robust.coordinate_rules import Median as Median
from headway.stages.robust.coordinate_rules import TrimmedMean as TrimmedMean
from headway.stages.robust.krum import Bulyan as Bulyan
from headway.stages.robust.krum import Krum as Krum
from headway.stages.robust.krum import MultiKrum as MultiKrum
from headway.stages.robust.loss_validation import LossValidation as LossValidation
from headway.stages.robust.majority_vote import MajorityVote as MajorityVote
from headway.stages.robust.pre_aggregation import NNM as NNM
from headway.stages.robust.pre_aggregation import AdaptiveRobustClipping as AdaptiveRobustClipping
from headway.stages.robust.pre_aggregation import Bucketing as Bucketing
from headway.stages.robust.subset_rules import FLTrust as FLTrust
from headway.stages.robust.subset_rules import MinimumDiameter as MinimumDiameter
