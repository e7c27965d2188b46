"""A site is refused in a sentence, and leaves torch's settings as they were."""

import copy
import sys

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from toys import blobs, linear_task

import headway as hw
from headway.engines import PooledEngine
from headway.model.device import Device
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key

GPU = torch.device("cuda", 0)


def refused(device="cuda", precision="float32"):
    with pytest.raises(hw.ConfigError) as caught:
        hw.LocalEngine(device=device, precision=precision)
    return str(caught.value)


@pytest.fixture
def gpus(monkeypatch):
    """As if there were GPUs: how many, and of which capability."""

    def gpus(count, capability=(9, 0)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)

    return gpus


class TestRefusals:
    def test_a_torch_without_cuda(self, monkeypatch, gpus):
        gpus(0)
        monkeypatch.setattr(torch.version, "cuda", None)
        monkeypatch.setattr(torch.version, "hip", None)
        assert refused() == (
            f'device = "cuda" needs a GPU, found none: torch {torch.__version__} is built without CUDA. It is caused '
            'by this installation: install a torch that is built with CUDA, or set device = "cpu".'
        )

    def test_no_driver(self, monkeypatch, gpus):
        gpus(0)
        monkeypatch.setattr(torch.version, "cuda", "12.8")
        assert "is built for CUDA 12.8, but finds no GPU or no driver for it" in refused("cuda:1")

    def test_a_number_that_is_not_there(self, gpus):
        gpus(1)
        assert refused("cuda:1") == (
            'device = "cuda:1" needs a GPU of that number, found one GPU, cuda:0: choose one that is there.'
        )
        gpus(4)
        assert "found 4 GPUs, cuda:0 to cuda:3" in refused("cuda:7")

    @pytest.mark.parametrize("device", ["gpu", "CUDA", "cuda:", "cuda:x", "meta", "", 0, None])
    def test_no_device(self, device):
        assert refused(device) == (
            f'device must be "cpu", "cuda" or "cuda:N", N being the number of a GPU, found {device!r}.'
        )

    @pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
    def test_precisions_that_a_processor_has_no_use_for(self, precision):
        told = refused("cpu", precision)
        assert told.startswith(f'precision = "{precision}" needs a GPU, found device = "cpu", which has no use for it')

    def test_no_precision(self):
        assert refused("cpu", "float16") == "precision must be one of float32, tf32, bfloat16, found 'float16'."

    @pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
    def test_precisions_that_the_gpu_is_too_old_for(self, precision, gpus):
        gpus(1, (7, 5))
        assert "needs a GPU of compute capability 8.0 or above, found Some GPU with 7.5" in refused("cuda", precision)
        gpus(1, (8, 0))
        assert Device.named("cuda", precision).name == f"cuda (Some GPU), {precision}"

    def test_precisions_that_float64_has_no_use_for(self):
        engine = hw.LocalEngine()
        engine.change_options(device=Device(precision="bfloat16"))
        with pytest.raises(hw.ConfigError, match='"bfloat16" needs a task of dtype = "float32", found "float64"'):
            hw.Run(hw.recipes.fedavg(), blobs(), linear_task(dtype="float64"), rounds=1, engine=engine)
        Device().check(torch.float64)
        Device(GPU).check(torch.float64)

    def test_of_every_engine_that_trains_here(self):
        with pytest.raises(hw.ConfigError, match="needs a GPU"):
            PooledEngine(precision="tf32")


def test_a_gpu_is_found_by_its_number(gpus):
    gpus(3)
    assert Device.named("cuda", "float32") == Device(GPU)
    assert Device.named("cuda:2", "tf32") == Device(torch.device("cuda", 2), "tf32")
    assert Device.named("cpu", "float32") == Device()


class TestSettings:
    def settings(self):
        return (
            torch.get_float32_matmul_precision(),
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
            torch.are_deterministic_algorithms_enabled(),
        )

    def test_are_put_back_whatever_happens(self, monkeypatch):
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
        for before in ("highest", "high"):
            torch.set_float32_matmul_precision(before)
            had = self.settings()
            for precision in ("float32", "tf32", "bfloat16"):
                with pytest.raises(ZeroDivisionError), Device(GPU, precision).training():
                    1 / 0  # noqa: B018
                assert self.settings() == had
        torch.set_float32_matmul_precision("highest")

    @pytest.mark.skipif(
        not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="needs another system: torch from 2.9 on"
    )
    def test_convolutions_and_products_have_the_precision_that_is_said(self):
        def told():
            return [h.fp32_precision for h in (torch.backends.cuda.matmul, torch.backends.cudnn.conv)]

        for precision, expected in (("float32", "ieee"), ("tf32", "tf32"), ("bfloat16", "ieee")):
            with Device(GPU, precision).training():
                assert told() == [expected] * 2
                with Device(GPU, precision).evaluating():
                    assert told() == ["ieee"] * 2
                assert told() == [expected] * 2
                assert torch.backends.cudnn.deterministic
                assert not torch.backends.cudnn.benchmark

    def test_before_torch_2_9(self, monkeypatch):
        class Old:
            allow_tf32, deterministic, benchmark = True, False, True

        matmul, cudnn = Old(), Old()
        monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
        monkeypatch.setattr(torch.backends, "cudnn", cudnn)
        for precision in ("float32", "tf32"):
            with Device(GPU, precision).training():
                assert matmul.allow_tf32 == cudnn.allow_tf32 == (precision == "tf32")
                assert cudnn.deterministic
            assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark) == (
                True,
                True,
                False,
                True,
            )

    def test_nothing_is_touched_on_a_processor(self, monkeypatch):
        monkeypatch.setattr(torch.backends, "cudnn", None)
        with Device().training():
            pass


class TestBfloat16:
    """On a processor, where autocast is the same; users cannot ask for it there."""

    @staticmethod
    def layers(features=4):
        return nn.Sequential(nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, 3))

    def flat_module(self):
        return FlatModule(hw.Task(lambda: self.layers(16)), Key.root(0), Device(precision="bfloat16"))

    def test_the_model_multiplies_in_bfloat16_while_it_trains_and_only_then(self):
        narrow, x = self.flat_module(), torch.randn(8, 16)
        whole = FlatModule(narrow.task, Key.root(0))
        assert torch.equal(narrow.module.eval()(x), whole.module.eval()(x))
        outputs = narrow.module.train()(x)
        assert outputs.dtype == torch.float32
        error = (outputs - whole.module.train()(x)).abs().max()
        assert 0 < error < 2**-6
        grads = torch.autograd.grad(outputs.sum(), narrow.parameters)
        assert {grad.dtype for grad in grads} == {narrow.shared.dtype} == {torch.float32}

    def test_as_a_batched_program(self):
        flat_module = self.flat_module()
        flat_module.module.train()
        views = flat_module.layout.views(flat_module.shared.expand(3, -1).clone())
        x = torch.randn(3, 5, 16)

        def loss(parameters, inputs):
            return functional_call(flat_module.module, parameters, (inputs,)).square().sum()

        together = vmap(grad(loss))(views, x)
        for lane in range(3):
            alone = grad(loss)({name: view[lane] for name, view in views.items()}, x[lane])
            for name, tensor in alone.items():
                assert tensor.dtype == torch.float32
                torch.testing.assert_close(together[name][lane], tensor, rtol=2**-6, atol=2**-6)

    def test_a_copy_of_the_model_is_not_bound_to_it(self):
        flat_module = self.flat_module()
        twin = copy.deepcopy(flat_module.module)
        with torch.no_grad():
            flat_module.shared.zero_()
        assert twin(torch.ones(1, 16)).abs().sum() > 0

    @pytest.mark.parametrize("lanes", [1, 3])
    @pytest.mark.parametrize("recipe", ["fedavg", "moon", "scaffold+ecgr"])
    def test_a_run_stays_near_one_in_float32(self, recipe, lanes):
        """The tolerance that docs/speed.md states: 2 % of how far the model goes."""

        def run(site):
            trainer = hw.LocalSGD(lr=0.05, batch_size=4, epochs=2)
            engine = hw.LocalEngine(lanes=lanes, drift=False)
            engine.change_options(device=site)
            algorithm, task = hw.recipes.recipe(recipe, trainer=trainer), hw.Task(self.layers)
            made = hw.Run(algorithm, blobs(), task, rounds=3, engine=engine)
            start = made.state.params
            list(made)
            return made, made.state.params - start

        (narrow, moved), (_, whole) = run(Device(precision="bfloat16")), run(Device())
        assert narrow.engine.execution.low_rank.reason is not None
        assert 0 < torch.linalg.vector_norm(moved - whole) < 0.02 * torch.linalg.vector_norm(whole)
        assert {p.dtype for p in narrow.model().parameters()} == {torch.float32}


def test_the_seeds_of_torchs_own_generator():
    site = Device()
    site.seed(5)
    before, one = site.rng_state(), torch.rand(3)
    site.set_rng_state(before)
    assert torch.equal(torch.rand(3), one)


def test_a_gpu_is_not_looked_for_where_none_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.cuda", None)
    assert Device.named("cpu", "float32").room() is None
    Device().wait()
    Device().empty_cache()
