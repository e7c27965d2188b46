"""What a quorum may not do to the cohort that privacy is accounted for by."""

import pytest

import headway as hw


@pytest.mark.parametrize("quorum", [hw.Quorum(replace=True), hw.Quorum(count=3)], ids=repr)
@pytest.mark.parametrize("sampler", [hw.Spaced(4, 4), hw.Poisson(0.5)], ids=repr)
def test_a_quorum_that_changes_the_cohort_is_refused(sampler, quorum):
    links = (hw.Clip(1.0), hw.Mean("expected"))
    with pytest.raises(hw.ChainRefused, match="as the sampler drew it"):
        hw.Algorithm(hw.chain(*links, hw.GaussianNoise(1.0)), hw.LocalSGD(lr=0.1), sampler, quorum)
    hw.Algorithm(hw.chain(*links), hw.LocalSGD(lr=0.1), sampler, quorum)
    hw.Algorithm(hw.chain(*links, hw.GaussianNoise(1.0)), hw.LocalSGD(lr=0.1), hw.Uniform(4), quorum)
