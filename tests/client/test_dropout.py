"""Dropout whose masks are a function of the client, the step and the position."""

import copy
from dataclasses import replace

import pytest
import torch
from test_sgd import trained
from torch import nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from toys import blobs

import headway as hw
from headway.client.dropout import FACTOR, MIX, Draws
from headway.client.workbench import Workbench
from headway.core.keys import Key

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
            for shift, factor in MIX:
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


SMALL = {
    "mlp": lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3)),
    "selu": lambda: nn.Sequential(nn.Linear(4, 8), nn.AlphaDropout(0.3, inplace=True), nn.Linear(8, 3)),
    "channels": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 5, 2, padding=1), nn.Dropout2d(0.4), nn.Flatten(), nn.Linear(45, 3)
    ),
}


def lanes(bench, keys, step, parameters, inputs, targets, weights):
    """What the lanes engine does: the loss of one client, its key an argument like its batch."""

    def loss(parameters, key, inputs, targets, weights):
        with bench.draws.during(key, step):
            outputs = functional_call(bench.module, parameters, (inputs,))
        return (functional.cross_entropy(outputs, targets, reduction="none") * weights).sum()

    return vmap(grad_and_value(loss))(parameters, keys, inputs, targets, weights)


class TestLanes:
    """Side by side, each client draws what it draws alone."""

    @pytest.mark.parametrize(("kind", "shape"), EVERY)
    @pytest.mark.filterwarnings("ignore:dropout2d")
    def test_masks_have_the_same_bits(self, kind, shape):
        model, draws = keyed(kind(0.4), kind(0.4))
        x = torch.rand(shape).expand(len(KEYS), *shape)

        def one(key, x):
            with draws.during(key, 7):
                return model(x)

        beside = vmap(one)(torch.tensor(KEYS), x)
        for index, key in enumerate(KEYS):
            draws.at(key, 7)
            assert torch.equal(beside[index], model(x[index]))
        assert not torch.equal(beside[0], beside[1])

    def test_lanes_at_different_steps(self):
        model, draws = keyed(nn.Dropout(0.4))

        def one(key, step):
            with draws.during(key, step):
                return model(torch.ones(3, 50))

        beside = vmap(one)(torch.tensor(KEYS), torch.arange(4))
        for index, key in enumerate(KEYS):
            assert torch.equal(beside[index], one(key, index))

    def test_what_one_lane_draws_from_is_forgotten(self):
        model, draws = keyed(nn.Dropout(0.4))
        draws.at(KEYS[0], 2)
        model(torch.ones(3))
        stream, calls = draws.stream.clone(), list(draws.calls)
        with draws.during(KEYS[1], 0):
            model(torch.ones(3))
        with pytest.raises(ZeroDivisionError), draws.during(KEYS[1], 0):
            raise ZeroDivisionError
        assert torch.equal(draws.stream, stream)
        assert draws.calls == calls == [1]

    @pytest.mark.parametrize("name", SMALL)
    def test_a_padded_batch_drops_what_the_smaller_one_does(self, name):
        bench = Workbench(hw.Task(SMALL[name], dtype="float64"), Key.root(1))
        bench.module.train()
        sizes = (6, 2, 5, 1)
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(4, 6, 4, generator=generator, dtype=torch.float64)
        targets = torch.randint(0, 3, (4, 6), generator=generator)
        weights = torch.stack([(torch.arange(6) < size).double() / size for size in sizes])
        stacked = bench.layout.views(bench.shared.expand(4, -1).clone())
        gradients, losses = lanes(bench, torch.tensor(KEYS), 3, stacked, inputs, targets, weights)
        for lane, size in enumerate(sizes):
            bench.draws.at(KEYS[lane], 3)
            loss = functional.cross_entropy(bench.module(inputs[lane, :size]), targets[lane, :size])
            torch.testing.assert_close(losses[lane], loss.detach(), rtol=1e-12, atol=1e-13)
            alone = torch.autograd.grad(loss, bench.parameters)
            for mine, theirs in zip(alone, gradients.values(), strict=True):
                torch.testing.assert_close(theirs[lane], mine, rtol=1e-10, atol=1e-12)

    def test_the_batched_program_compiles_whole(self):
        bench = Workbench(hw.Task(SMALL["mlp"], dtype="float64"), Key.root(1))
        bench.module.train()

        def loss(parameters, key, step, inputs):
            with bench.draws.during(key, step):
                return functional_call(bench.module, parameters, (inputs,)).square().sum()

        program = vmap(grad_and_value(loss), in_dims=(0, 0, None, 0))
        compiled = torch.compile(program, backend="aot_eager", fullgraph=True)
        stacked = bench.layout.views(bench.shared.expand(4, -1).clone())
        inputs = torch.ones(4, 6, 4, dtype=torch.float64)
        for step in (0, 1):
            given = (stacked, torch.tensor(KEYS), torch.tensor(step), inputs)
            torch.testing.assert_close(compiled(*given), program(*given))

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_padding_of_any_axis_changes_no_draw(self, axis):
        """Sequences that stand before the batch, too."""
        model, draws = keyed(nn.Dropout(0.5))
        shape = [4, 5, 6]
        draws.at(KEYS[0], 0)
        small = model(torch.ones(shape))
        shape[axis] += 3
        draws.at(KEYS[0], 0)
        assert torch.equal(model(torch.ones(shape)).narrow(axis, 0, [4, 5, 6][axis]), small)

    def test_the_width_does_not_matter(self):
        model, draws = keyed(nn.Dropout(0.5))

        def one(key):
            with draws.during(key, 1):
                return model(torch.ones(2, 30))

        keys = torch.tensor([Key.root(seed).seed() for seed in range(32)])
        assert torch.equal(vmap(one)(keys), torch.cat([vmap(one)(part) for part in keys.split(5)]))


TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2, momentum=0.5)


def final(name="mlp", recipe="fedavg", trainer=TRAINER, rounds=2, **options):
    task = hw.Task(SMALL[name], **options)
    run = hw.Run(hw.recipes.recipe(recipe, trainer=trainer), blobs(sizes=(7, 12, 5)), task, rounds=rounds, seed=3)
    list(run)
    return run


class TestTraining:
    """A run is a function of its seed."""

    @pytest.mark.parametrize("name", SMALL)
    def test_twice_the_same_bits(self, name):
        first = final(name).state.params
        torch.manual_seed(5)
        assert torch.equal(first, final(name).state.params)

    def test_on_any_number_of_threads_the_same_bits(self):
        first = final().state.params
        torch.set_num_threads(2)
        try:
            model, draws = keyed(nn.Dropout(0.5))
            draws.at(KEYS[0], 0)
            large = model(torch.ones(1000, 1000))
            assert torch.equal(first, final().state.params)
        finally:
            torch.set_num_threads(1)
        model, draws = keyed(nn.Dropout(0.5))
        draws.at(KEYS[0], 0)
        assert torch.equal(model(torch.ones(1000, 1000)), large)

    def test_the_ambient_generator_is_not_drawn_from(self):
        bench = Workbench(hw.Task(SMALL["mlp"]), Key.root(0))
        before = torch.get_rng_state()
        bench.module.train()
        bench.module(torch.ones(2, 4))
        assert torch.equal(before, torch.get_rng_state())

    def test_steps_rounds_and_clients_differ(self):
        """The draws that local training takes, by client and round, of a model whose outputs are its masks."""

        def masks(client, round_):
            task = hw.Task(lambda: nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, 3)))
            got = []
            hook = nn.modules.module.register_module_forward_hook(
                lambda part, _, made: got.append(made.detach() != 0) if isinstance(part, nn.Dropout) else None
            )
            try:
                trained(
                    replace(TRAINER, batch_size=7), task=task, data=blobs(sizes=(7, 7)), client=client, round_=round_
                )
            finally:
                hook.remove()
            return got

        one = masks("client-0", 0)
        assert len(one) == 2
        assert all(torch.equal(a, b) for a, b in zip(one, masks("client-0", 0), strict=True))
        different = [one[0], one[1], masks("client-1", 0)[0], masks("client-0", 1)[0]]
        assert all(not torch.equal(a, b) for i, a in enumerate(different) for b in different[:i])

    @pytest.mark.parametrize("name", SMALL)
    def test_steps_that_are_trained_again_draw_the_same(self, name):
        """ECGR by repeated training."""
        full = final(name, "fedavg+ecgr", dtype="float64")
        budget = 8 * 8 * (full.bench.layout.size // 3)
        trainer = replace(TRAINER, steps_memory=budget, steps_kept="replay")
        again = final(name, "fedavg+ecgr", trainer, dtype="float64")
        torch.testing.assert_close(again.state.params, full.state.params, rtol=1e-12, atol=1e-13)

    def test_a_copy_of_the_model_draws_from_the_same(self):
        model, draws = keyed(nn.Dropout(0.5))
        other = copy.deepcopy(model)
        draws.at(KEYS[0], 0)
        once = model(torch.ones(50))
        draws.at(KEYS[0], 0)
        assert torch.equal(other(torch.ones(50)), once)
        other.eval()
        assert torch.equal(other(torch.ones(50)), torch.ones(50))
        assert model.training


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


class TestExport:
    """What a run gives away is a module of torch alone."""

    def test_the_model_of_a_run(self, tmp_path):
        run = final(rounds=1)
        module = run.model()
        assert all("headway" not in type(part).__module__ for part in module.modules())
        assert not any("forward" in vars(part) for part in module.modules())
        plain = SMALL["mlp"]()
        assert module.state_dict().keys() == plain.state_dict().keys()
        torch.save(module.state_dict(), tmp_path / "weights.pt")
        plain.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
        x = torch.randn(6, 4)
        assert torch.equal(plain.eval()(x), module.eval()(x))
        torch.save(module, tmp_path / "module.pt")
        assert b"headway" not in (tmp_path / "module.pt").read_bytes()
        again = torch.load(tmp_path / "module.pt", weights_only=False)
        assert torch.equal(again(x), module(x))
        module.train()
        torch.manual_seed(0)
        once = module(x)
        torch.manual_seed(0)
        assert torch.equal(plain.train()(x), once)
        run.model()
        list(hw.Run(run.algorithm, run.data, hw.Task(lambda: module), rounds=1))
        assert not any("forward" in vars(part) for part in module.modules())

    def test_names_are_unchanged_on_the_bench(self):
        bench = Workbench(hw.Task(SMALL["mlp"]), Key.root(0))
        assert bench.module.state_dict().keys() == SMALL["mlp"]().state_dict().keys()
        assert len(bench.draws.layers) == 2
        assert bench.release() is bench.module
        bench.draws.at(1, 0)
        assert not bench.draws.layers


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same():
    model, draws = keyed(nn.Dropout(0.3), nn.Dropout2d(0.4))
    x = torch.rand(5, 6, 7, 8)
    draws.at(KEYS[0], 2)
    here = model(x)
    draws.at(KEYS[0], 2)
    assert torch.equal(model(x.cuda()).cpu(), here)
