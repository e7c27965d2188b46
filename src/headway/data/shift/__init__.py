"""Shifts of features and labels: clients whose examples look different."""

from headway.data.shift.shifting import Move, Shift
from headway.data.shift.shifts import SHIFTS, register_shift, shift, shifted

__all__ = ["SHIFTS", "Move", "Shift", "register_shift", "shift", "shifted"]
