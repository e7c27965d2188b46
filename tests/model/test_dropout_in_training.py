"""A client drops the same alone and side by side with others, and a trained model is one of torch again."""

import copy
from dataclasses import replace

import pytest
import torch
from test_dropout import EVERY, KEYS, keyed
from test_local_sgd import trained
from torch import nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional
from toys import blobs

import headway as hw
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key

SMALL = {
    "mlp": lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3)),
    "selu": lambda: nn.Sequential(nn.Linear(4, 8), nn.AlphaDropout(0.3, inplace=True), nn.Linear(8, 3)),
    "channels": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 5, 2, padding=1), nn.Dropout2d(0.4), nn.Flatten(), nn.Linear(45, 3)
    ),
}


def lanes(flat_module, keys, step, parameters, inputs, targets, weights):
    """What the lanes engine does: the loss of one client, its key an argument like its batch."""

    def loss(parameters, key, inputs, targets, weights):
        with flat_module.draws.during(key, step):
            outputs = functional_call(flat_module.module, parameters, (inputs,))
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
        flat_module = FlatModule(hw.Task(SMALL[name], dtype="float64"), Key.root(1))
        flat_module.module.train()
        sizes = (6, 2, 5, 1)
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(4, 6, 4, generator=generator, dtype=torch.float64)
        targets = torch.randint(0, 3, (4, 6), generator=generator)
        weights = torch.stack([(torch.arange(6) < size).double() / size for size in sizes])
        stacked = flat_module.layout.views(flat_module.shared.expand(4, -1).clone())
        gradients, losses = lanes(flat_module, torch.tensor(KEYS), 3, stacked, inputs, targets, weights)
        for lane, size in enumerate(sizes):
            flat_module.draws.at(KEYS[lane], 3)
            loss = functional.cross_entropy(flat_module.module(inputs[lane, :size]), targets[lane, :size])
            torch.testing.assert_close(losses[lane], loss.detach(), rtol=1e-12, atol=1e-13)
            alone = torch.autograd.grad(loss, flat_module.parameters)
            for mine, theirs in zip(alone, gradients.values(), strict=True):
                torch.testing.assert_close(theirs[lane], mine, rtol=1e-10, atol=1e-12)

    def test_the_batched_program_compiles_whole(self):
        flat_module = FlatModule(hw.Task(SMALL["mlp"], dtype="float64"), Key.root(1))
        flat_module.module.train()

        def loss(parameters, key, step, inputs):
            with flat_module.draws.during(key, step):
                return functional_call(flat_module.module, parameters, (inputs,)).square().sum()

        program = vmap(grad_and_value(loss), in_dims=(0, 0, None, 0))
        compiled = torch.compile(program, backend="aot_eager", fullgraph=True)
        stacked = flat_module.layout.views(flat_module.shared.expand(4, -1).clone())
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
        flat_module = FlatModule(hw.Task(SMALL["mlp"]), Key.root(0))
        before = torch.get_rng_state()
        flat_module.module.train()
        flat_module.module(torch.ones(2, 4))
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
        budget = 8 * 8 * (full.flat_module.layout.size // 3)
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

    def test_names_are_unchanged_in_the_flat_module(self):
        flat_module = FlatModule(hw.Task(SMALL["mlp"]), Key.root(0))
        assert flat_module.module.state_dict().keys() == SMALL["mlp"]().state_dict().keys()
        assert len(flat_module.draws.layers) == 2
        assert flat_module.release() is flat_module.module
        flat_module.draws.at(1, 0)
        assert not flat_module.draws.layers
