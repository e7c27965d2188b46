"""Measures of how unlike the data of clients are."""

from headway.data.skew.skew import ClientSkew, LabelSkew, Skew, Spread, label_skew, skew_of

__all__ = ["ClientSkew", "LabelSkew", "Skew", "Spread", "label_skew", "skew_of"]
