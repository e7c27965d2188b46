"""The public names are pinned: adding one is a decision."""

import subprocess
import sys

import pytest

import headway

NAMES = set(
    """
__version__ Adagrad Adam AdamW AdaptiveClip AdaptiveRobustClipping AFL Aggregator Algorithm All Always AverageModel
Bernoulli Bucketing Bulyan BySize CentredClipping Chain chain ChainRefused Charging ClientFailed ClientMomentum Clip
ClockEngine ConfigError Context data DataError DeviceFleet Diurnal Diverged DPSGD ECGR Examples FedDyn FederatedData
FedNova FedProx Fixed Flow FLTrust GaussianNoise GeometricMedian HeadwayError Krum Layout LeastAvailable LocalEngine
LocalGaussian LocalOptimizer LocalSGD LossTerm LossValidation MajorityVote MatrixNoise Mean MeanAroundMedian Median
MinimumDiameter models Moon MultiKrum NNM NormBound Observer Oort Place Poisson PowerOfChoice PrivacyOptions
ProcessEngine Protocol QFedAvg Quantize Quorum RandomK RayEngine Rebase recipes Reputation RMSprop RoundReport
RoundRobin rounds Run RunFolderError Sampler Scaffold Schedule SecureSum ServerAdagrad ServerAdam ServerSGD ServerYogi
SGD Skellam Spaced Stage stages Staleness step_rules Task Trace Trainer TrimmedMean Uniform Update Weigh WeighByQuality
""".split()  # noqa: SIM905
)


DATA = set(
    """
ClientData ClientSize RemoteData
ClientIndex ClientSkew ClientSummary ExamplePool Examples FederatedData LabelSkew NumberedNames PARTITIONERS Partitioner
SHIFTS Shift Skew Spread TableFacts batch_bounds described epoch_order from_huggingface from_torch hospitals infer_csv
label_skew load mapped mapped_examples partitioner register_partition
register_shift register_source shift shifted skew_of sources split
""".split()  # noqa: SIM905
)


def test_names_of_the_data_layer_are_as_pinned():
    assert set(headway.data.__all__) == DATA
    assert all(getattr(headway.data, name) is not None for name in DATA)


def test_names_are_as_pinned():
    assert len(headway.__all__) == len(NAMES)
    assert set(headway.__all__) == NAMES
    assert set(dir(headway)) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_name_is_there(name):
    assert getattr(headway, name) is not None


def test_a_wrong_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'FedAvg'"):
        _ = headway.FedAvg


def test_importing_headway_is_light():
    heavy = ("torch", "numpy", "ray", "grpc", "matplotlib", "pandas", "scipy", "pyarrow", "datasets", "PIL")
    code = f"import sys, headway; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_names_of_earlier_versions_still_work():
    assert headway.Fleet is headway.DeviceFleet
    assert headway.data.Parts is headway.data.ClientIndex
    assert headway.data.Numbered is headway.data.NumberedNames
