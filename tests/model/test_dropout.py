"""Dropout whose masks are a function of the client, the step and the position."""

import pytest
import torch
from torch import nn
from torch.func import vmap
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import headway as hw
from headway.model.dropout import FACTOR, Draws
from headway.numerics.counters import FACTORS, SHIFTS
from headway.numerics.keys import Key

KEYS = [Key.root(seed).seed() for seed in range(4)]
EVERY = [
    (nn.Dropout, (6, 40)),
    (nn.Dropout, (3, 5, 4, 6)),
    (nn.AlphaDropout, (6, 40)),
    (nn.Dropout1d, (6, 10, 4)),
    (nn.Dropout1d, (30, 4)),
    (nn.Dropout2d, (6, 10, 4, 3)),
    (nn.Dropout2d, (6, 10, 5)),
    (nn.Dropout3d, (6, 10, 4, 3, 2)),
    (nn.Dropout3d, (30, 4, 3, 2)),
    (nn.FeatureAlphaDropout, (6, 10, 4, 3)),
]


def keyed(*layers):
    model = nn.Sequential(*layers)
    return model, Draws(model)


def mask(key=KEYS[0], step=0, shape=(400, 500), p=0.3, layer=0):
    """What one of three layers keeps, as numbers with mean 0 and variance 1."""
    model, draws = keyed(*(nn.Dropout(p) for _ in range(3)))
    draws.at(key, step)
    kept = (model[layer](torch.ones(shape, dtype=torch.float64)) > 0).double()
    return (kept - (1 - p)) / (p * (1 - p)) ** 0.5


def correlation(one, other):
    """In units of its standard deviation where the two are independent."""
    return float((one * other).sum()) / one.numel() ** 0.5


def deviation(total, count):
    return abs(float(total)) / count**0.5


class TestMasks:
    """They look like independent draws."""

    @pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9, 0.999])
    def test_mean_and_variance(self, p):
        z = mask(p=p)
        assert deviation(z.sum(), z.numel()) < 4
        model, draws = keyed(nn.Dropout(p))
        draws.at(KEYS[1], 3)
        outputs = model(torch.ones(1000, 1000, dtype=torch.float64))
        spread = (p / (1 - p)) ** 0.5
        assert float(outputs.mean()) == pytest.approx(1, abs=4e-3 * spread)
        assert float(outputs.var()) == pytest.approx(spread**2, rel=0.15 if p > 0.99 else 0.05)

    @pytest.mark.parametrize("axis", [0, 1])
    def test_every_row_and_column_has_its_share(self, axis):
        z = mask(shape=(1000, 1000))
        sums = z.sum(axis) / 1000**0.5
        assert float(sums.abs().max()) < 4.5
        assert float(sums.var()) == pytest.approx(1, abs=0.2)

    def test_nothing_is_repeated_within_a_mask(self):
        """Neighbours in every direction, and at powers of two."""
        z = mask(shape=(64, 64, 64), p=0.5)
        for axis in range(3):
            for lag in (1, 2, 3, 4, 8, 16, 32):
                there = z.narrow(axis, 0, 64 - lag), z.narrow(axis, lag, 64 - lag)
                assert abs(correlation(*there)) < 4, (axis, lag)
        assert abs(correlation(z[:, :, 0], z[:, 0, :])) < 4
        assert abs(correlation(z[:, :, 0], z[:, :, 0].T)) < 6  # counts each pair twice

    def test_steps_layers_calls_and_clients_are_independent(self):
        first = mask()
        others = [mask(step=step) for step in (1, 2, 3, 1000, 2**20)]
        others += [mask(layer=layer) for layer in (1, 2)]
        others += [mask(key=key) for key in KEYS[1:]] + [mask(key=KEYS[0] + 1), mask(key=KEYS[0] ^ 2**62)]
        others += [mask(key=KEYS[0] + 1, step=1), mask(key=KEYS[0] + 1, layer=1)]
        for one in others:
            assert abs(correlation(first, one)) < 4
            assert abs(correlation(first[1:], one[:-1])) < 4

    def test_a_module_called_twice_draws_twice(self):
        part = nn.Dropout(0.5)
        model, draws = keyed(part, nn.Identity(), part)
        draws.at(KEYS[0], 0)
        once, again = part(torch.ones(400, 500)), part(torch.ones(400, 500))
        assert abs(correlation(once - 1, again - 1)) < 4
        draws.at(KEYS[0], 0)
        assert torch.equal(model(torch.ones(400, 500)), once * again)
        assert len(draws.layers) == 1

    def test_patterns_of_small_masks_are_uniform(self):
        """One of 256 for 8 elements, over 20,000 steps."""
        model, draws = keyed(nn.Dropout(0.5))

        def one(step):
            with draws.during(KEYS[0], step):
                return model(torch.ones(8)) > 0

        patterns = vmap(one)(torch.arange(20_000)).long() @ 2 ** torch.arange(8)
        counts = torch.bincount(patterns, minlength=256).double()
        expected = 20_000 / 256
        chi_squared = float(((counts - expected) ** 2 / expected).sum())
        assert abs(chi_squared - 255) < 4 * (2 * 255) ** 0.5

    def test_the_hash_is_the_one_in_the_docstring(self):
        """Against whole numbers of Python."""

        def mix(z):
            for shift, factor in zip(SHIFTS, FACTORS, strict=True):
                z = (z ^ (z >> shift)) * factor % 2**64
            return z

        model, draws = keyed(nn.Dropout(0.25), nn.Dropout(0.25))
        draws.at(KEYS[2], 5)
        model[1](torch.ones(2))
        outputs = model[1](torch.ones(3, 1, 7))
        stream = mix((KEYS[2] + FACTOR * 5) % 2**64)
        for i in range(3):
            for j in range(7):
                counter = stream + 1 + FACTOR + FACTOR**2 * i + FACTOR**4 * j
                bits = mix(counter % 2**64)
                signed = bits - 2**64 if bits >= 2**63 else bits
                assert bool(outputs[i, 0, j] > 0) == (signed >= 2**63 * (2 * 0.25 - 1))


class TestLikeTorch:
    """Everything but the draws is as in torch."""

    @pytest.mark.parametrize(("kind", "shape"), EVERY)
    @pytest.mark.parametrize("inplace", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.filterwarnings("ignore:dropout2d")
    def test_values_and_gradients(self, kind, shape, inplace, dtype):
        """An element has the value that torch gives it if kept, or that if dropped; and a channel is one of the two."""
        plain, part = kind(0.4, inplace=inplace), kind(0.4, inplace=inplace)
        _, draws = keyed(part)
        draws.at(KEYS[0], 0)

        def outcome(module):
            leaf = torch.full(shape, 1.5, dtype=dtype, requires_grad=True)
            inputs = leaf * 1
            outputs = module(inputs)
            assert (outputs is inputs) == (inplace and "Alpha" not in kind.__name__)  # torch's Alpha variants copy
            (gradient,) = torch.autograd.grad(outputs.sum(), leaf)
            return outputs.detach(), gradient

        (mine, gradient), (theirs, their_gradient) = outcome(part), outcome(plain)
        values, where = mine.unique(return_inverse=True)
        assert mine.dtype == dtype
        assert len(values) == 2
        torch.testing.assert_close(values, theirs.unique(), rtol=1e-6, atol=1e-6)
        slopes = [gradient[where == value].unique() for value in range(2)]
        assert [len(slope) for slope in slopes] == [1, 1]
        torch.testing.assert_close(torch.cat(slopes), their_gradient.unique(), rtol=1e-6, atol=1e-6)
        if kind not in (nn.Dropout, nn.AlphaDropout):
            rest = len(shape) - (1 if shape[0] == 30 else 2)  # the axes behind the channels
            assert torch.equal(mine, mine[(..., *(slice(0, 1),) * rest)].expand(shape))

    @pytest.mark.parametrize(("kind", "shape"), EVERY)
    @pytest.mark.filterwarnings("ignore:dropout2d")
    def test_p_of_zero_and_of_one(self, kind, shape):
        for p in (0.0, 1.0):
            model, draws = keyed(kind(p))
            draws.at(KEYS[0], 0)
            x = torch.rand(shape)
            assert torch.equal(model(x), kind(p)(x))
            assert torch.equal(model(x), x * (1 - p))

    def test_scaling_is_exact(self):
        for p in (0.1, 0.3, 0.7):
            model, draws = keyed(nn.Dropout(p))
            draws.at(KEYS[0], 0)
            x = torch.ones(1000)
            assert torch.equal(model(x).unique(), nn.Dropout(p)(x).unique())

    @pytest.mark.parametrize(("kind", "shape"), EVERY)
    def test_nothing_is_drawn_in_evaluation_mode(self, kind, shape):
        model, draws = keyed(kind(0.5))
        model.eval()
        x = torch.rand(shape)
        assert model(x) is x
        assert draws.calls == [0]

    @pytest.mark.parametrize(
        ("kind", "shape"), [(nn.Dropout1d, (3,)), (nn.Dropout2d, (3,)), (nn.FeatureAlphaDropout, (3,))]
    )
    @pytest.mark.filterwarnings("ignore:dropout2d")
    def test_a_shape_that_torch_refuses(self, kind, shape):
        model, _ = keyed(kind(0.5))
        for module in (kind(0.5), model):
            with pytest.raises(RuntimeError):
                module(torch.ones(shape))

    def test_a_shape_that_torch_warns_of(self):
        part = nn.Dropout3d(0.5)
        model, draws = keyed(part)
        draws.at(KEYS[0], 0)
        with pytest.warns(UserWarning, match="dropout3d: Received a 2-D input"):
            rows = model(torch.ones(40, 6))
        assert torch.equal(rows, rows[:, :1].expand(40, 6))
        assert len(rows.unique()) == 2

    def test_alpha_dropout_keeps_mean_and_variance(self):
        model, draws = keyed(nn.AlphaDropout(0.2))
        draws.at(KEYS[0], 0)
        x = functional.selu(torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
        y = model(x)
        assert float(y.mean()) == pytest.approx(float(x.mean()), abs=5e-3)
        assert float(y.var()) == pytest.approx(float(x.var()), rel=5e-3)

    def test_p_and_hooks_are_the_users(self):
        part = nn.Dropout(0.5)
        seen = []
        part.register_forward_hook(lambda *_: seen.append(1))
        model, draws = keyed(part)
        draws.at(KEYS[0], 0)
        part.p = 0.0
        x = torch.rand(3)
        assert model(x) is x
        assert seen == [1]
        assert isinstance(model[0], nn.Dropout)

    def test_an_empty_batch(self):
        model, _ = keyed(nn.Dropout2d(0.5))
        assert model(torch.ones(0, 3, 2, 2)).shape == (0, 3, 2, 2)


class Checkpointed(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def forward(self, x):
        for part in self.parts:
            x = checkpoint(part, x, use_reentrant=False)
        return x


class TestCheckpointing:
    """Layers that are computed again in the backward pass."""

    def gradients(self, wrap, shared=False):
        torch.manual_seed(0)
        drop = nn.Dropout(0.5)
        blocks = [nn.Sequential(nn.Linear(6, 6), drop if shared else nn.Dropout(0.5), nn.Tanh()) for _ in range(3)]
        model = wrap(nn.Sequential(*blocks))
        draws = Draws(model)
        draws.at(KEYS[0], 0)
        return torch.autograd.grad(model(torch.ones(5, 6)).square().sum(), list(model.parameters()))

    def test_gradients_are_those_without(self):
        for mine, theirs in zip(self.gradients(Checkpointed), self.gradients(nn.Sequential), strict=True):
            assert torch.equal(mine, theirs)

    def test_a_module_in_several_places_is_refused(self):
        with pytest.raises(hw.ConfigError, match="Dropout is called several times in a step, and again in the back"):
            self.gradients(Checkpointed, shared=True)


class Batched(nn.Module):
    """A recurrent or attentive part, fed with sequences."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        x = x.unsqueeze(1).expand(-1, 3, -1)
        return self.part(x, x, x)[0] if isinstance(self.part, nn.MultiheadAttention) else self.part(x)


def attention(**options):
    return nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, **options)


def without_attention_dropout():
    layer = attention(dropout=0.3)
    layer.self_attn.dropout = 0.0
    return layer


class TestTransformers:
    """Their dropout modules are keyed; attention's own dropout is not."""

    def test_a_transformers_own_dropout_is_keyed(self):
        model = Batched(without_attention_dropout())
        draws = Draws(model)
        assert [type(part) for part in draws.layers] == [nn.Dropout] * 3
        x = torch.randn(5, 4)
        draws.at(KEYS[0], 0)
        once = model(x)
        draws.at(KEYS[0], 0)
        assert torch.equal(model(x), once)
        draws.at(KEYS[0], 1)
        assert not torch.equal(model(x), once)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same():
    model, draws = keyed(nn.Dropout(0.3), nn.Dropout2d(0.4))
    x = torch.rand(5, 6, 7, 8)
    draws.at(KEYS[0], 2)
    here = model(x)
    draws.at(KEYS[0], 2)
    assert torch.equal(model(x.cuda()).cpu(), here)
