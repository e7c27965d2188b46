"""Measures of skew: the distance between the data of clients."""

from headway.data.skew.skew import ClientSkew, LabelSkew, Skew, Spread, label_skew, skew_of

__all__ = ["ClientSkew", "LabelSkew", "Skew", "Spread", "label_skew", "skew_of"]
