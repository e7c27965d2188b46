"""Inner products about the middle of rows: distances keep their digits in float32, whatever the rows have in common."""

import pytest
import torch

from headway.numerics import distances
from headway.numerics.distances import COLUMNS, distances_from, products_about_middle, squared_distances, weighted_sum


def direct(rows):
    return ((rows.double().unsqueeze(0) - rows.double().unsqueeze(1)) ** 2).sum(-1)


def draws(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("common", [0.0, 0.3, 3.0, 1e4], ids=str)
@pytest.mark.parametrize("width", [1, 7, COLUMNS, 2 * COLUMNS + 5], ids=str)
def test_distances_do_not_lose_digits_to_what_rows_have_in_common(common, width) -> None:
    rows = draws(9, width) + common * draws(1, width, 1)
    torch.testing.assert_close(
        squared_distances(products_about_middle([rows])),
        direct(rows),
        rtol=1e-4,
        atol=1e-4 * float(direct(rows).mean()),
    )


@pytest.mark.parametrize("huge", [1e4, 1e10, 3e38])
def test_a_minority_of_huge_rows_takes_no_digits_from_the_others(huge) -> None:
    rows = draws(9, 300)
    rows[:4] = huge
    found = squared_distances(products_about_middle([rows]))[4:, 4:]
    torch.testing.assert_close(found, direct(rows[4:]), rtol=1e-4, atol=1e-3)


def test_the_distance_of_two_rows_is_the_same_number_from_either() -> None:
    """Ties are then ties, and the first row by name is chosen."""
    for common in (0.0, 100.0):
        found = squared_distances(products_about_middle([draws(33, 501) + common, draws(33, 64, 1)]))
        assert torch.equal(found, found.T)


@pytest.mark.parametrize("used", [100, 80, 1, 0])
def test_weighted_sums_and_distances_from_a_vector_read_rows_in_blocks(used) -> None:
    rows, coefficients = draws(100, COLUMNS + 3), torch.arange(100.0).double()
    coefficients[used:] = 0
    rows[99] = float("nan") if used < 100 else rows[99]
    expected = coefficients[:used] @ rows[:used].double()
    torch.testing.assert_close(weighted_sum(rows, coefficients), expected, rtol=1e-4, atol=1e-2)
    centre = draws(1, COLUMNS + 3, 2)[0].double()
    away = (rows[:99].double() - centre).norm(dim=1)
    torch.testing.assert_close(distances_from([rows[:99]], [centre]), away, rtol=1e-5, atol=0)


def test_calls_of_several_blocks_have_the_numbers_of_single_ones(monkeypatch) -> None:
    rows, centre, coefficients = draws(20, 3 * COLUMNS + 3), draws(1, 3 * COLUMNS + 3, 1)[0], torch.rand(20).double()
    rows[3, COLUMNS] = 1e20  # in one block alone products are taken in float64
    coefficients[2:7] = 0

    def found() -> list[torch.Tensor]:
        squares = products_about_middle([rows])
        return [squares, distances_from([rows], [centre.double()]), weighted_sum(rows, coefficients)]

    together = found()
    torch.testing.assert_close(together[2], coefficients @ rows.double(), rtol=1e-4, atol=1e-4)
    for name, value in (("TOGETHER", 1), ("AWAY", COLUMNS), ("SPAN", COLUMNS), ("COPIED", COLUMNS)):
        monkeypatch.setattr(distances, name, value)
    for one, other in zip(together, found(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
