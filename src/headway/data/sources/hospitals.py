"""Heart disease at four hospitals: a small, real, natural partition that ships with the package.

Labels, sizes and *which features are measured at all* differ between the sites, so features are built by
each site from its own training patients; see `headway.data.sources.impute`.

Source: Janosi, Steinbrunn, Pfisterer, Detrano (1988), Heart Disease, UCI Machine Learning Repository,
https://doi.org/10.24432/C52P4X, CC BY 4.0; see files/ATTRIBUTION.txt for what was changed.
"""

from __future__ import annotations

from importlib.resources import as_file, files

import numpy as np
import torch

from headway.data.dataset.federated import FederatedData
from headway.data.sources.example_pool import ExamplePool
from headway.data.sources.impute import Categorical, EncodedTable, Numeric
from headway.data.sources.table_fields import Field
from headway.data.sources.tables import read_table
from headway.numerics.keys import Key

_SITES = {"Cleveland": "cleveland", "Hungary": "hungary", "Switzerland": "switzerland", "VA Long Beach": "va"}
_HUNGARIAN_ROW = 304  # the file has Cleveland, but UCI's Cleveland data end at 303 and Hungary's start here

# Name, centre, scale, can it be missing.  Round clinical figures, not statistics of these patients: pooling
# them is what federated learning must not do.  Units: years, mmHg, mg/dl, beats/min, mm of ST, vessels.
_NUMERIC = (
    ("age", 54.0, 9.0, False),
    ("trestbps", 130.0, 20.0, True),
    ("chol", 240.0, 50.0, True),
    ("thalch", 140.0, 25.0, True),
    ("oldpeak", 1.0, 1.0, True),
    ("ca", 1.0, 1.0, True),
)
_ZERO_MEANS_MISSING = ("trestbps", "chol")  # no living patient has either at 0
_CATEGORICAL = (
    ("sex", ("Female", "Male"), False),
    ("cp", ("typical angina", "atypical angina", "non-anginal", "asymptomatic"), False),
    ("fbs", ("FALSE", "TRUE"), True),
    ("restecg", ("normal", "st-t abnormality", "lv hypertrophy"), True),
    ("exang", ("FALSE", "TRUE"), True),
    ("slope", ("upsloping", "flat", "downsloping"), True),
    ("thal", ("normal", "fixed defect", "reversable defect"), True),
)


def hospitals(*, key: Key | int = 0, test_share: float = 0.2) -> FederatedData:
    """920 patients of four hospitals; the target is 1 where any coronary artery is narrowed by half or more.

    Inputs float32 `[920, 35]` (named by `feature_names`), targets int64 `[920]`.  Clients: `cleveland` 303
    patients (139 positive), `hungary` 294 (106), `switzerland` 123 (115) and `va` 200 (149).

    Raises:
        ConfigError: `test_share` is not in [0, 1).

    >>> hospitals().clients
    ('cleveland', 'hungary', 'switzerland', 'va')
    """
    return hospital_pool().divide(key=Key.of(key, "data"), partition=None, clients=None, test_share=test_share)


def feature_names() -> tuple[str, ...]:
    """The names of the 35 features, in order; `chol missing` is 1 where cholesterol was not measured.

    >>> feature_names()[:3]
    ('age', 'trestbps', 'trestbps missing')
    """
    empty = torch.empty(0)
    numeric = (Numeric(name, empty, flagged) for name, _, _, flagged in _NUMERIC)
    categorical = (Categorical(name, empty, kinds, flagged) for name, kinds, flagged in _CATEGORICAL)
    return EncodedTable((*numeric, *categorical)).feature_names()


def hospital_pool() -> ExamplePool:
    """The patients, in the order of the file, before sites build features from them."""
    with as_file(files("headway.data") / "files" / "heart_disease_uci.csv") as path:
        fields = read_table(path).fields
    numeric = (
        Numeric(name, torch.from_numpy(_measured(fields[name])), flagged, centre, scale)
        for name, centre, scale, flagged in _NUMERIC
    )
    categorical = (
        Categorical(name, torch.from_numpy(fields[name].codes(kinds)), kinds, flagged)
        for name, kinds, flagged in _CATEGORICAL
    )
    row, grade = fields["id"].numbers, fields["num"].numbers
    assert row is not None
    assert grade is not None
    return ExamplePool(
        name="hospitals",
        inputs=EncodedTable((*numeric, *categorical)),
        targets=torch.from_numpy((grade > 0).astype(np.int64)),
        classes=2,
        owners=tuple(
            "hungary" if number == _HUNGARIAN_ROW else _SITES[str(site)]
            for number, site in zip(row, fields["dataset"].texts, strict=True)
        ),
        description="coronary heart disease at four hospitals, UCI (Janosi et al. 1988), CC BY 4.0",
    )


def _measured(field: Field) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The numbers of a field, with NaN where a zero stands for a missing value."""
    assert field.numbers is not None
    if field.name not in _ZERO_MEANS_MISSING:
        return field.numbers
    return np.where(field.numbers == 0, np.nan, field.numbers)
