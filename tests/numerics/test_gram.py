"""Gram matrices and combinations of vectors: exact on whole numbers, in blocks of coordinates, for many clients."""

import torch

from headway.numerics.gram import COLUMNS, add_combination, add_gram, gram_matrix, quadratic


def rows(*shape):
    """Small whole numbers, whose products and sums are exact in float64."""
    return torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(0)).float()


def test_one_client_and_many_have_the_products_of_their_rows():
    many = rows(3, 4, 2 * COLUMNS + 5)
    expected = many.double() @ many.double().mT
    assert torch.equal(gram_matrix(many), expected)
    assert torch.equal(gram_matrix(many[1]), expected[1])


def test_blocks_of_coordinates_give_the_bits_of_the_whole():
    vectors = torch.randn(5, 3 * COLUMNS + 7, generator=torch.Generator().manual_seed(1))
    gram = torch.zeros(5, 5, dtype=torch.float64)
    for start in (0, COLUMNS, 2 * COLUMNS):
        stop = start + COLUMNS if start < 2 * COLUMNS else None
        add_gram(gram, vectors[:, start:stop])
    assert torch.equal(gram, gram_matrix(vectors))


def test_a_combination_is_added_to_a_fresh_vector():
    vectors, base, coefficients = rows(3, COLUMNS + 2), rows(COLUMNS + 2), torch.tensor([1.0, -2.0, 0.5]).double()
    kept = base.clone()
    total = add_combination(base, vectors, coefficients)
    assert torch.equal(total, (base.double() + coefficients @ vectors.double()).float())
    assert torch.equal(base, kept)


def test_the_quadratic_form_is_a_squared_length():
    vectors, a = rows(2, 3, 8), rows(2, 3).double()
    length = (a.unsqueeze(-1) * vectors.double()).sum(-2).square().sum(-1)
    assert torch.equal(quadratic(gram_matrix(vectors), a), length)
