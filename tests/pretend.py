"""Two stand-ins for a GPU, for machines without one.

`NOWHERE` is torch's meta device: what lies there has no values, so whatever reads one raises.  Gradients and batched
programs work on it; torch's FakeTensorMode cannot make gradients on a device that torch is not built for.

`Pretend` is a site whose tensors are ordinary ones that are known by their memory.  Under `watched` every operation is
looked at: one that mixes what lies there with what does not, or reads a number of it during a step, fails as it would
fail, or wait, on a GPU; and the numbers are real.
"""

import contextlib

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from headway.data import Examples
from headway.model.device import Device
from headway.training import local_loop
from headway.vectorized import batched_sgd as lanes

NOWHERE = Device(torch.device("meta"))
MADE = (torch.arange, torch.empty, torch.empty_strided)
MAY_MIX = {
    torch.ops.aten.copy_.default,  # a transfer
    torch.ops.aten.index.Tensor,  # torch brings the index itself
}


class Wrong(BaseException):
    """What a GPU would refuse or wait for; no engine takes it for the fault of a model or a stage."""


def _refuse(wrong, what):
    if wrong:
        raise Wrong(what)


class NoReads(TorchDispatchMode):
    """Fails where a GPU would make the processor wait, or refuse: for tensors of the meta device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = _tensors(args, kwargs)
        kinds = {tensor.device.type for tensor in tensors if tensor.ndim}
        _refuse(len(kinds) > 1, f"{func} mixes devices")
        made = func(*args, **(kwargs or {}))
        if "meta" in {tensor.device.type for tensor in tensors}:
            _refuse(any(tensor.device.type != "meta" for tensor in _tensors(made)), f"{func} reads")
        return made


class Pretend(Device):
    """resident: whether the examples are brought there at once.  now: what is done at present."""

    __slots__ = ("far", "now", "resident")

    def __init__(self, resident=True):
        super().__init__()
        object.__setattr__(self, "far", {})  # memory by its address; it is kept, so that no other has the same
        object.__setattr__(self, "now", {"step": False, "read": 0})
        object.__setattr__(self, "resident", resident)

    @property
    def moves(self):
        return True

    def holds(self, tensor):
        return _address(tensor) in self.far

    def put(self, tensor):
        if self.holds(tensor):
            return tensor
        _refuse(self.now["step"] and self.resident, "a step brings something there")
        return self.mark(_copied(tensor))

    def place_dataset(self, store):
        return Examples(self.put(store.inputs), self.put(store.targets)) if self.resident else store

    def mark(self, tensor):
        self.far[_address(tensor)] = tensor.untyped_storage()
        return tensor


class _Operations(TorchDispatchMode):
    """Looks at every operation."""

    def __init__(self, site):
        super().__init__()
        self.site = site

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = _tensors(args, kwargs)
        far = [self.site.holds(tensor) for tensor in given]
        host = [tensor for tensor, there in zip(given, far, strict=True) if not there and tensor.ndim]
        if any(far):
            _refuse(host and func not in MAY_MIX, f"{func} mixes devices")
            if func is torch.ops.aten._local_scalar_dense.default:
                self.site.now["read"] += 1
                _refuse(self.site.now["step"], "a step reads a number")
        made = func(*args, **(kwargs or {}))
        if any(far) and func is not torch.ops.aten.copy_.default:
            for tensor in _tensors(made):
                self.site.mark(tensor)
        return made


class _Moves(TorchFunctionMode):
    """Looks at what brings tensors there and back: what names a device is there, and `cpu` is back."""

    def __init__(self, site):
        super().__init__()
        self.site = site

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, site = kwargs or {}, self.site
        if func in (Tensor.cpu, Tensor.tolist, Tensor.numpy) and site.holds(args[0]):
            _refuse(site.now["step"], "a step reads numbers")
            _refuse(func is Tensor.numpy, "NumPy cannot see what lies on a GPU")
            if func is Tensor.cpu:
                return _copied(args[0])
        made = func(*args, **kwargs)
        if func is Tensor.to and any(self._named(given) for given in (*args[1:], *kwargs.values())):
            return site.put(made)
        return site.mark(made) if func in MADE and kwargs.get("device") is not None else made

    def _named(self, given):
        """Whether this names the site: as a device, or by a tensor there."""
        return isinstance(given, torch.device) or (isinstance(given, Tensor) and self.site.holds(given))


@contextlib.contextmanager
def watched(site, monkeypatch):
    """Everything inside is looked at, and the steps of one client and of lanes more closely."""
    with monkeypatch.context() as patch:
        patch.setattr(local_loop.LocalLoop, "step", _as_step(site, local_loop.LocalLoop.step))
        patch.setattr(lanes.BatchedLoop, "_step", _as_step(site, lanes.BatchedLoop._step))
        with _Moves(site), _Operations(site):
            yield


def _as_step(site, step):
    def watched(*args):
        site.now["step"] = True
        try:
            return step(*args)
        finally:
            site.now["step"] = False

    return watched


def _copied(tensor):
    with _disable_current_modes():
        return tensor.detach().clone()


def _address(tensor):
    return tensor.untyped_storage()._cdata


def _tensors(*given):
    """The tensors in lists, tuples and dictionaries; torch's own `tree_leaves` takes several times as long."""
    found = []
    for each in given:
        if isinstance(each, Tensor):
            found.append(each)
        elif isinstance(each, (list, tuple)):
            found += _tensors(*each)
        elif isinstance(each, dict):
            found += _tensors(*each.values())
    return found
