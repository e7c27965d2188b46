"""A layout is a bijection between named tensors and one vector."""

import pytest
import torch

from headway.core.errors import ConfigError
from headway.core.layout import Layout

TENSORS = {
    "w": torch.arange(6.0).reshape(2, 3),
    "scale": torch.tensor(7.0),
    "none": torch.empty(0, 4),
    "b": torch.ones(3),
}
LAYOUT = Layout.of(TENSORS)


@pytest.mark.parametrize("lead", [(), (2,), (2, 5)])
def test_flattening_and_viewing_are_inverse(lead) -> None:
    tensors = {name: tensor.expand((*lead, *tensor.shape)) for name, tensor in TENSORS.items()}
    vector = LAYOUT.flatten(tensors)
    assert vector.shape == (*lead, 10)
    views = LAYOUT.views(vector)
    assert list(views) == list(TENSORS)
    assert all(torch.equal(views[name], tensors[name]) for name in tensors)


def test_views_and_slices_share_memory_with_the_vector() -> None:
    vector = torch.zeros(2, 10)
    LAYOUT.views(vector)["scale"].fill_(1.0)
    LAYOUT.slices(vector)[3].fill_(2.0)
    assert vector[0].tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 2, 2]


def test_flattening_into_a_given_vector_writes_there() -> None:
    out = torch.empty(10)
    assert LAYOUT.flatten(TENSORS, out=out).data_ptr() == out.data_ptr()
    assert torch.equal(out, LAYOUT.flatten(TENSORS))


def test_selecting_packs_the_chosen_tensors_anew_in_the_same_order() -> None:
    chosen = LAYOUT.select(["b", "scale"])
    assert [(entry.name, entry.offset) for entry in chosen.entries] == [("scale", 0), ("b", 1)]
    assert chosen == LAYOUT.select(lambda name: name in ("b", "scale"))
    assert chosen.flatten(TENSORS).tolist() == [7, 1, 1, 1]
    assert LAYOUT.select([]).size == 0


def test_the_number_type_is_double_only_if_all_are() -> None:
    assert LAYOUT.dtype == torch.float32
    assert Layout.of({"a": torch.ones(1).double()}).dtype == torch.float64
    assert Layout.of({"a": torch.ones(1).double(), "b": torch.ones(1).half()}).dtype == torch.float32
    assert LAYOUT.flatten({name: tensor.double() for name, tensor in TENSORS.items()}).dtype == torch.float32


def test_the_fingerprint_tells_apart_whatever_moves_an_offset() -> None:
    a, b = torch.ones(2), torch.ones(3)
    others = [{"b": b, "a": a}, {"a": a, "c": b}, {"a": a, "b": b.reshape(1, 3)}, {"a": a.double(), "b": b.double()}]
    prints = {Layout.of(tensors).fingerprint for tensors in ({"a": a, "b": b}, *others)}
    assert len(prints) == 5
    assert Layout.of({"a": a, "b": b}).fingerprint == Layout.of({"a": a * 9, "b": b}).fingerprint


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Layout.of({"n": torch.ones(1, dtype=torch.int64)}), "'n' is torch.int64"),
        (lambda: LAYOUT.flatten({"w": TENSORS["w"], "scales": TENSORS["scale"]}), "did you mean 'scales'"),
        (lambda: LAYOUT.flatten({**TENSORS, "w": torch.ones(3, 2)}), r"'w' must end in shape \(2, 3\)"),
        (lambda: LAYOUT.flatten({**TENSORS, "w": torch.ones(3)}), r"found \(3,\)"),
        (lambda: LAYOUT.views(torch.ones(9)), r"\[..., 10\] was needed"),
        (lambda: LAYOUT.views(torch.tensor(1.0)), r"found shape \(\)"),
        (lambda: LAYOUT.select(["scal"]), "did you mean 'scale'"),
    ],
)
def test_what_does_not_fit_is_refused(wrong, says) -> None:
    with pytest.raises(ConfigError, match=says):
        wrong()


def test_named_vectors_are_split_for_each_tensor_and_scalars_stay_whole() -> None:
    vector, scalar = torch.arange(2.0 * LAYOUT.size).view(2, -1), torch.ones(2, 1)
    pieces = LAYOUT.split({"vector": vector, "scalar": scalar})
    assert len(pieces) == len(LAYOUT.entries)
    for piece, part in zip(pieces, LAYOUT.slices(vector), strict=True):
        assert torch.equal(piece["vector"], part)
        assert piece["scalar"] is scalar
    assert LAYOUT.sizes == [entry.numel for entry in LAYOUT.entries]
