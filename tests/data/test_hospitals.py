"""The four hospitals: counts, what missing means, and that no site's features depend on another's."""

import csv
from importlib.resources import files

import numpy as np
import pytest
import torch

from headway.data import hospitals
from headway.data.sources.hospitals import feature_names, hospital_pool
from headway.data.sources.impute import Categorical, EncodedTable, Numeric
from headway.numerics.keys import Key

KEY = Key.root(0)
SIZES = {"cleveland": 303, "hungary": 294, "switzerland": 123, "va": 200}
RAW = list(csv.DictReader((files("headway.data") / "files" / "heart_disease_uci.csv").read_text().splitlines()))


def test_sizes_and_positive_rates_are_the_published_ones() -> None:
    data = hospitals(key=KEY)
    assert data.clients == tuple(SIZES)
    assert data.classes == 2
    positive = []
    for client, size in SIZES.items():
        labels = torch.cat([data.train_of(client).targets, data.test_of(client).targets])
        assert len(labels) == size
        positive.append(int(labels.sum()))
    assert positive == [139, 106, 115, 149]  # 46, 36, 93.5 and 74.5 %
    assert data.store.targets.sum() == sum(int(row["num"]) > 0 for row in RAW)


def test_shapes_and_names() -> None:
    data = hospitals(key=KEY)
    assert data.store.inputs.shape == (920, 35)
    assert data.store.inputs.dtype == torch.float32
    assert data.store.targets.dtype == torch.int64
    assert data.features == feature_names()
    assert len(set(feature_names())) == 35


def test_features_recomputed_by_hand() -> None:
    data = hospitals(key=KEY)
    at = {name: place for place, name in enumerate(feature_names())}
    va = data.train["va"].tolist()
    for name, centre, scale in (("chol", 240, 50), ("trestbps", 130, 20), ("thalch", 140, 25)):
        observed = [float(RAW[row][name]) for row in va if RAW[row][name] not in ("", "0")]
        for row in (*va, *data.test["va"].tolist()):
            gap = RAW[row][name] in ("", "0")
            value = np.median(observed) if gap else float(RAW[row][name])
            assert data.store.inputs[row, at[name]] == pytest.approx((value - centre) / scale, abs=1e-6)
            assert data.store.inputs[row, at[f"{name} missing"]] == gap
    assert data.store.inputs[0, at["age"]] == pytest.approx((63 - 54) / 9)
    assert data.store.inputs[0, at["sex=Male"]] == 1
    assert data.store.inputs[0, at["cp=typical angina"]] == 1


def test_a_feature_never_observed_at_a_site_is_the_centre_and_flagged() -> None:
    data = hospitals(key=KEY)
    swiss = data.train_of("switzerland").inputs
    at = {name: place for place, name in enumerate(feature_names())}
    assert swiss[:, at["chol"]].eq(0).all()
    assert swiss[:, at["chol missing"]].eq(1).all()


def test_the_misfiled_patient_is_hungarian() -> None:
    data = hospitals(key=KEY, test_share=0.0)
    assert RAW[303]["id"] == "304"
    assert 303 in data.train["hungary"]


@pytest.mark.parametrize("site", tuple(SIZES))
def test_features_use_the_training_part_of_the_own_site_alone(site: str) -> None:
    data, pool = hospitals(key=KEY), hospital_pool()
    assert isinstance(pool.inputs, EncodedTable)
    trained = data.train[site]
    elsewhere = torch.ones(920, dtype=torch.bool)
    elsewhere[trained] = False
    changed = []
    for column in pool.inputs.columns:  # everything beyond this site's training rows becomes nonsense
        if isinstance(column, Numeric):
            values = column.values.masked_fill(elsewhere, 1e4)
            changed.append(Numeric(column.name, values, column.flagged, column.centre, column.scale))
        else:
            codes = column.codes.masked_fill(elsewhere, 0)
            changed.append(Categorical(column.name, codes, column.categories, column.flagged))
    again = EncodedTable(tuple(changed)).encode(data.train, data.test)
    assert torch.equal(again[trained], data.store.inputs[trained])


@pytest.mark.parametrize("site", tuple(SIZES))
def test_gaps_of_test_patients_are_filled_from_training_alone(site: str) -> None:
    data, pool = hospitals(key=KEY), hospital_pool()
    assert isinstance(pool.inputs, EncodedTable)
    tested = data.test[site]
    blank = tuple(
        Numeric(c.name, c.values.index_fill(0, tested, float("nan")), c.flagged, c.centre, c.scale)
        if isinstance(c, Numeric)
        else Categorical(c.name, c.codes.index_fill(0, tested, -1), c.categories, c.flagged)
        for c in pool.inputs.columns
    )
    filled = EncodedTable(blank).encode(data.train, data.test)
    assert torch.equal(filled[data.train[site]], data.store.inputs[data.train[site]])
    age = pool.inputs.columns[0]
    assert isinstance(age, Numeric)
    median = (np.median(age.values[data.train[site]]) - 54) / 9
    assert filled[tested, 0].numpy() == pytest.approx(median, abs=1e-6)


def test_keys_repeat_and_differ() -> None:
    assert hospitals(key=KEY).fingerprint() == hospitals(key=Key.root(0)).fingerprint()
    assert hospitals(key=KEY).fingerprint() != hospitals(key=Key.root(1)).fingerprint()


def test_attribution_ships_beside_the_file() -> None:
    text = (files("headway.data") / "files" / "ATTRIBUTION.txt").read_text()
    assert all(word in text for word in ("CC BY 4.0", "10.24432/C52P4X", "Janosi", "Detrano", "Changes"))
