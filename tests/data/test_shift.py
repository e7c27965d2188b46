"""Shifts: closed forms, neutral settings to the bit, who changes, and every refusal."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headway.core.errors import ConfigError, DataError
from headway.data import SHIFTS, Examples, FederatedData, Shift, from_torch, load, shift, shifted
from headway.data.shift.image_shifts import STAINS, restain, rotate
from headway.numerics.keys import Key

KEY = Key.root(3)


def images(clients: int = 4, each: int = 10, channels: int = 3, side: int = 8, central: bool = True) -> FederatedData:
    """Random intensities; each client keeps 2 of its examples for testing."""
    rng = np.random.default_rng(0)
    x = rng.random((clients, each, channels, side, side), dtype=np.float32)
    y = rng.integers(0, 3, (clients, each))
    y[:, :3] = [0, 1, 2]
    parts = {f"c{i}": (x[i, 2:], y[i, 2:], x[i, :2], y[i, :2]) for i in range(clients)}
    return FederatedData.from_clients(parts, central=(x[0], y[0]) if central else None)


def table(rows: int = 20) -> FederatedData:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(rows, 3)).astype(np.float32)
    x[:, 1] = rng.integers(0, 2, rows)
    return FederatedData.from_clients({f"c{i}": (x[i::4], np.arange(rows)[i::4] % 2) for i in range(4)})


def moved(data: FederatedData, *rules: Any, key: Key = KEY) -> FederatedData:
    return shifted(data, list(rules), key=key)


def same(a: FederatedData, b: FederatedData) -> bool:
    return a.fingerprint() == b.fingerprint()


NEUTRAL = [
    shift("noise", level=0),
    shift("rotation", degrees=0),
    shift("rotation", clusters=1),
    shift("colour"),
    shift("stain"),
    shift("labels", share=0),
]
REAL: list[Shift] = [
    shift("noise", level=0.1),
    shift("rotation"),
    shift("colour", gain=0.3, bias=0.1),
    shift("stain", scale=0.3, offset=0.05),
    shift("labels", share=0.5),
]


def kind_of(rule: Shift) -> str:
    return rule.kind


@pytest.mark.parametrize("rule", NEUTRAL, ids=repr)
def test_a_neutral_setting_changes_no_bit_and_nobody(rule: Shift) -> None:
    data = images()
    assert same(moved(data, rule), data)
    assert moved(data, rule).shifts == {}


def test_neutral_affine_changes_no_bit() -> None:
    assert same(moved(table(), shift("affine")), table())


def test_every_kind_is_tested_here() -> None:
    assert {rule.kind for rule in (*NEUTRAL, *REAL)} | {"affine"} == set(SHIFTS)


@pytest.mark.parametrize("rule", REAL, ids=kind_of)
def test_train_and_test_change_the_central_set_and_the_given_data_do_not(rule: Shift) -> None:
    data = images()
    before = data.fingerprint()
    after = moved(data, rule)
    assert data.fingerprint() == before
    assert data.central is not None
    assert after.central is not None
    assert torch.equal(after.central.inputs, data.central.inputs)
    assert torch.equal(after.central.targets, data.central.targets)
    name = "targets" if rule.kind == "labels" else "inputs"
    assert after.shifts
    for client in data.clients:
        for part in ("train_of", "test_of"):
            was, now = (getattr(each, part)(client) for each in (data, after))
            assert torch.equal(getattr(was, name), getattr(now, name)) == (client not in after.shifts)
            other = {"targets": "inputs", "inputs": "targets"}[name]
            assert torch.equal(getattr(was, other), getattr(now, other))


@pytest.mark.parametrize("rule", REAL, ids=kind_of)
def test_the_key_decides(rule: Shift) -> None:
    data = images(clients=6)
    assert same(moved(data, rule), moved(data, rule))
    if rule.kind != "rotation":
        assert not same(moved(data, rule), moved(data, rule, key=Key.root(4)))


def test_shifts_happen_in_order_and_each_with_its_own_draws() -> None:
    data = images()
    colour, rotation = {"kind": "colour", "gain": 0.5}, {"kind": "rotation", "clusters": 4}
    both = moved(data, colour, rotation)
    step = moved(data, colour)
    for number, client in enumerate(data.clients):
        assert torch.equal(both.train_of(client).inputs, torch.rot90(step.train_of(client).inputs, number, (-2, -1)))
    assert len(both.shifts["c1"]) == 2
    twice = moved(data, colour, colour)
    first, second = (text.removeprefix("channels times ").split(" plus ")[0] for text in twice.shifts["c1"])
    assert first != second


def test_examples_that_nobody_holds_stay() -> None:
    store = Examples(torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 0, 1]))
    data = FederatedData("part", store, {"a": torch.tensor([2, 0])}, classes=2)
    after = moved(data, shift("colour", bias=1.0), shift("labels", share=1.0))
    assert torch.equal(after.store.inputs[[1, 3]], store.inputs[[1, 3]])
    assert after.store.targets.tolist() == [1, 1, 1, 1]


def test_noise_has_the_variance_of_the_paper() -> None:
    """Client i of n: variance level i / n; independent between values, examples and clients."""
    data = FederatedData.from_clients({f"c{i}": (np.zeros((50, 1, 28, 28)), [0, 1] * 25) for i in range(4)})
    after = moved(data, shift("noise", level=0.2))
    for number, client in enumerate(data.clients, start=1):
        noise = after.train_of(client).inputs.double()
        assert float(noise.var()) == pytest.approx(0.2 * number / 4, rel=0.03)
        assert float(noise.mean()) == pytest.approx(0, abs=0.01)
        assert float((noise[0] * noise[1]).mean()) == pytest.approx(0, abs=0.03)
    a, b = (after.train_of(client).inputs for client in ("c2", "c3"))
    assert float((a * b).mean()) == pytest.approx(0, abs=0.005)


def slow_rotation(angle: float, image: Tensor) -> Tensor:
    """Bilinear, pixel by pixel, pixels beyond the edge being those of the edge."""
    height, width = image.shape
    turned = torch.empty_like(image)
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    for row in range(height):
        for column in range(width):
            x, y = column - (width - 1) / 2, row - (height - 1) / 2
            at_x = np.clip(c * x - s * y + (width - 1) / 2, 0, width - 1)
            at_y = np.clip(s * x + c * y + (height - 1) / 2, 0, height - 1)
            left, top = int(at_x), int(at_y)
            right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
            u, v = at_x - left, at_y - top
            above = image[top, left] * (1 - u) + image[top, right] * u
            below = image[bottom, left] * (1 - u) + image[bottom, right] * u
            turned[row, column] = above * (1 - v) + below * v
    return turned


@pytest.mark.parametrize("angle", [17.0, 45.0, 120.0, -30.0, 90.0])
@pytest.mark.parametrize("shape", [(9, 9), (6, 10)])
def test_rotation_is_the_slow_one(angle: float, shape: tuple[int, int]) -> None:
    batch = torch.rand(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turned = rotate(angle, batch)
    for example in range(2):
        for channel in range(3):
            torch.testing.assert_close(turned[example, channel], slow_rotation(angle, batch[example, channel]))


def test_rotation_by_right_angles_is_exact_and_in_groups() -> None:
    data = images(clients=6)
    after = moved(data, shift("rotation", degrees=360, clusters=4))
    for number, client in enumerate(data.clients):
        wanted = torch.rot90(data.train_of(client).inputs, number % 4, (-2, -1))
        assert torch.equal(after.train_of(client).inputs, wanted)
    assert after.shifts["c1"] == ("rotated by 90 degrees",)
    assert set(after.shifts) == {"c1", "c2", "c3", "c5"}
    spaced = moved(data, shift("rotation", degrees=60))
    assert [spaced.shifts.get(client) for client in data.clients] == [
        None,
        *((f"rotated by {angle} degrees",) for angle in (10, 20, 30, 40, 50)),
    ]


def test_colour_is_affine_per_client_and_channel() -> None:
    data, after = images(), moved(images(), shift("colour", gain=0.4, bias=0.2))
    found = set()
    for client in data.clients:
        x, y = (each.train_of(client).inputs.double().transpose(0, 1).flatten(1) for each in (data, after))
        for channel in range(3):
            gain, bias = np.polyfit(x[channel].numpy(), y[channel].numpy(), 1)
            torch.testing.assert_close(y[channel], x[channel] * gain + bias, rtol=1e-4, atol=1e-5)
            assert abs(gain - 1) <= 0.4 + 1e-5
            assert abs(bias) <= 0.2 + 1e-5
            found.add(round(float(gain), 4))
    assert len(found) == 12


def test_stain_is_a_change_of_stain_amounts() -> None:
    """An image mixed from known amounts of H, E and DAB comes back with the scaled and shifted amounts."""
    rows = torch.tensor(STAINS, dtype=torch.float64)
    basis = rows / rows.norm(dim=1, keepdim=True)
    amounts = 0.3 + 0.3 * torch.rand(5, 6, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    picture = torch.pow(10.0, -(amounts @ basis)).permute(0, 3, 1, 2)
    scales, offsets = torch.tensor([1.2, 0.7], dtype=torch.float64), torch.tensor([-0.1, 0.05], dtype=torch.float64)
    changed = restain(scales, offsets, picture)
    back = -torch.log10(changed).permute(0, 2, 3, 1) @ basis.inverse()
    torch.testing.assert_close(back[..., :2], amounts[..., :2] * scales + offsets)
    torch.testing.assert_close(back[..., 2], amounts[..., 2])
    assert torch.equal(restain(scales, torch.ones(2, dtype=torch.float64) * -9, picture), torch.ones_like(picture))


def test_bytes_are_shifted_as_intensities_and_stay_bytes() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    store = Examples(pixels.repeat(2, 1, 1, 1), torch.tensor([0, 1]))
    data = FederatedData("bytes", store, {"a": torch.tensor([0]), "b": torch.tensor([1])}, classes=2)
    turned = moved(data, shift("rotation")).store.inputs
    assert torch.equal(turned, torch.cat([pixels, pixels.flip(2, 3)]))
    noisy = moved(data, shift("noise", level=0.01)).store.inputs[1:]
    assert noisy.dtype == torch.uint8
    change = noisy.double() - pixels.double()
    assert float(change[(pixels > 80) & (pixels < 175)].std()) == pytest.approx(25.5, rel=0.2)
    assert float(change.abs().max()) < 150  # nothing wrapped around


def test_affine_changes_measurements_and_leaves_flags() -> None:
    data, after = table(), moved(table(), shift("affine", gain=0.5, bias=1.0))
    lines = set()
    for client in data.clients:
        x, y = data.train_of(client).inputs.double(), after.train_of(client).inputs.double()
        assert torch.equal(x[:, 1], y[:, 1])
        for feature in (0, 2):
            gain, bias = np.polyfit(x[:, feature].numpy(), y[:, feature].numpy(), 1)
            torch.testing.assert_close(y[:, feature], x[:, feature] * gain + bias, rtol=1e-4, atol=1e-5)
            assert abs(gain - 1) <= 0.5
            assert abs(bias) <= 1.0
            lines.add((round(float(gain), 4), round(float(bias), 4)))
    assert len(lines) == 8


def test_labels_swaps_a_pair_at_a_share_of_the_clients() -> None:
    data = images(clients=10)
    after = moved(data, shift("labels", share=0.3, classes=(0, 2)))
    assert len(after.shifts) == 3
    assert set(after.shifts.values()) == {("labels 0 and 2 swapped",)}
    for client in data.clients:
        was, now = (torch.cat([d.train_of(client).targets, d.test_of(client).targets]) for d in (data, after))
        assert torch.equal(now, torch.tensor([2, 1, 0])[was] if client in after.shifts else was)


def test_labels_are_drawn_evenly_over_clients_and_permutations() -> None:
    data = FederatedData.from_clients({f"c{i}": (np.zeros((4, 1)), [0, 1, 2, 3]) for i in range(4)})
    chosen: Counter[str] = Counter()
    cycles: Counter[tuple[int, ...]] = Counter()
    for seed in range(600):
        after = moved(data, shift("labels", share=0.25, classes=(0, 1, 3)), key=Key.root(seed))
        (client,) = after.shifts
        chosen[client] += 1
        cycles[tuple(after.train_of(client).targets.tolist())] += 1
    assert set(cycles) == {(1, 3, 2, 0), (3, 0, 2, 1)}
    assert all(240 < count < 360 for count in cycles.values())
    assert all(110 < chosen[client] < 190 for client in data.clients)


def test_labels_in_clusters_share_their_permutation() -> None:
    data = FederatedData.from_clients({f"c{i:02}": (np.zeros((9, 1)), np.arange(9)) for i in range(12)})
    after = moved(data, shift("labels", share=1.0, clusters=3))
    kinds = Counter(tuple(after.train_of(client).targets.tolist()) for client in data.clients)
    assert list(kinds.values()) == [4, 4, 4]
    alone = moved(data, shift("labels", share=1.0))
    assert len({tuple(alone.train_of(client).targets.tolist()) for client in data.clients}) == 12


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ({"kind": "nois", "level": 1}, "no shift 'nois' .did you mean 'noise'"),
        ({"level": 1}, r"a table with a 'kind' is needed"),
        ("noise", r"the shift is 'noise', but a table with a 'kind'"),
        ({"kind": "noise"}, "the shift 'noise' needs the option 'level', which is missing"),
        ({"kind": "noise", "levl": 1}, "the shift 'noise' has no option 'levl' .did you mean 'level'"),
        ({"kind": "noise", "level": "1"}, "the shift 'noise': level must be a number, found '1'"),
        ({"kind": "noise", "level": -1}, "level of the shift 'noise' is -1.0, but a number of at least 0"),
        ({"kind": "noise", "level": float("nan")}, "level of the shift 'noise' is nan"),
        ({"kind": "noise", "level": float("inf")}, "level of the shift 'noise' is inf"),
        ({"kind": "rotation", "degrees": 400}, "degrees of the shift 'rotation' is 400.0, .* from -360 to 360"),
        ({"kind": "rotation", "clusters": -1}, "clusters of the shift 'rotation' is -1"),
        ({"kind": "rotation", "clusters": 1.5}, "clusters must be a whole number, found 1.5"),
        ({"kind": "colour", "gain": 2}, "gain of the shift 'colour' is 2.0, but a number from 0 to 1"),
        ({"kind": "stain", "scale": -0.1}, "scale of the shift 'stain' is -0.1"),
        ({"kind": "affine", "bias": -1}, "bias of the shift 'affine' is -1.0"),
        ({"kind": "labels", "share": 1.1}, "share of the shift 'labels' is 1.1"),
        ({"kind": "labels", "share": 1, "classes": [1]}, r"classes of the shift 'labels' is \[1\], but two or more"),
        ({"kind": "labels", "share": 1, "classes": [1, 1]}, r"is \[1, 1\], but two or more different"),
        ({"kind": "labels", "share": 1, "classes": [-1, 1]}, r"is \[-1, 1\]"),
    ],
)
def test_malformed_shifts_are_refused(rule: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        moved(images(), rule)


def regression() -> FederatedData:
    return FederatedData.from_clients({"a": ([[0.5]], [0.5])})


def tokens() -> FederatedData:
    return FederatedData.from_clients({"a": ([[1, 2]], [0])})


@pytest.mark.parametrize(
    ("data", "rule", "sentence"),
    [
        (
            table(),
            shift("noise", level=1),
            r"'noise' needs images \[C, H, W\], but 'clients' has inputs of shape \[3\]",
        ),
        (table(), shift("rotation"), r"'rotation' needs images"),
        (table(), shift("colour", gain=0.1), r"'colour' needs images"),
        (images(channels=1), shift("stain", scale=0.1), r"'stain' needs images of 3 channels, but .* has grey images"),
        (images(channels=4), shift("stain", scale=0.1), r"needs images of 3 channels, .* inputs of shape \[4, 8, 8\]"),
        (images(), shift("affine", gain=0.1), r"'affine' needs a table, .* inputs of shape \[3, 8, 8\]"),
        (tokens(), shift("affine", gain=0.1), r"are whole numbers \(torch.int64\), such as tokens"),
        (regression(), shift("labels", share=1.0), r"'labels' needs classes, but 'clients' is regression"),
        (images(), shift("labels", share=1.0, classes=(1, 3)), r"permutes the classes \[1, 3\], .* the classes 0 to 2"),
        (images(), shift("labels", share=0.1), r"share 0.1 of 4 clients is less than half a client"),
    ],
)
def test_what_cannot_be_is_refused(data: FederatedData, rule: Shift, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        moved(data, rule)


def test_stain_after_a_shift_that_leaves_the_range_is_refused() -> None:
    with pytest.raises(DataError, match=r"'stain' needs intensities from 0 to 1, .* let it come before"):
        moved(images(), shift("noise", level=0.5), shift("stain", scale=0.2))


def test_load_and_from_torch_shift_what_they_divide() -> None:
    rule = {"kind": "affine", "gain": 0.2}
    assert same(load("hospitals", key=5, shift=rule), shifted(load("hospitals", key=5), rule, key=5))
    assert not same(load("hospitals", key=5, shift=rule), load("hospitals", key=5))
    pairs = torch.utils.data.TensorDataset(torch.rand(12, 2), torch.arange(12) % 3)
    given: dict[str, Any] = {"partition": {"kind": "iid"}, "clients": 3}
    after = from_torch(pairs, shift={"kind": "labels", "share": 1.0}, **given)
    assert set(after.shifts) == set(after.clients)
    with pytest.raises(ConfigError, match="no shift 'nose'"):
        load("no-such-file.npz", shift={"kind": "nose"})
