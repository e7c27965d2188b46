"""Patches, and the sum of what comes back to them, against torch's own convolution."""

import pytest
import torch
import torch.nn.functional as F

from headway.training.patches import Convolved, Patches
from headway.training.reused_memory import ReusedMemory

CASES = [
    ((8, 8), (2, 2), (3, 3), (1, 1)),
    ((4, 3), (2, 1), (0, 1), (1, 1)),
    ((3, 2), (2, 3), (1, 0), (2, 3)),
    ((1, 1), (3, 2), (0, 0), (1, 1)),
    ((3, 5), (1, 4), (2, 2), (1, 1)),
]


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_a_convolution_by_patches_is_torchs_own(case, last):
    """With inputs that torch keeps with channels last, and with channels first; rows that no window covers have no
    gradient."""
    kernel, stride, padding, dilation = case
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 13, 12, generator=generator, dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last if last else torch.contiguous_format).requires_grad_()
    weight, bias = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 3, *kernel), (4,)))
    wanted = F.conv2d(x, weight, bias, stride, padding, dilation)
    errors = torch.randn(wanted.shape, generator=generator, dtype=torch.float64)
    patches, memory = Patches(kernel, stride, padding, dilation, tuple(wanted.shape[2:])), ReusedMemory()
    weights = weight.permute(0, 2, 3, 1).flatten(1).T.expand(2, -1, -1)
    for _ in range(2):  # in memory of torch, and in what was used before
        memory.again()
        _, made = Convolved.apply(x.permute(0, 2, 3, 1), weights, bias.expand(2, 1, -1), patches, memory)
        made = made.mT.unflatten(2, wanted.shape[2:])
        torch.testing.assert_close(made, wanted, rtol=0, atol=1e-12)
        ours, torchs = (torch.autograd.grad(out, x, errors, retain_graph=True)[0] for out in (made, wanted))
        torch.testing.assert_close(ours, torchs, rtol=0, atol=1e-12)
