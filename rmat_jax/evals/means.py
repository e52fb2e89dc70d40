"""Means with their standard errors."""

from typing import NamedTuple

import numpy as np


class Mean(NamedTuple):
    """A mean with its standard error. A difference counts from two standard errors on."""

    value: float
    # NaN with fewer than two units
    error: float
    # the number of units that the error is taken over
    units: int

    @property
    def positive(self) -> bool:
        """Whether the mean lies more than two standard errors above zero; False for a NaN error."""
        return self.value > 2 * self.error

    @property
    def negative(self) -> bool:
        """Whether the mean lies more than two standard errors below zero; False for a NaN error."""
        return self.value < -2 * self.error

    def __format__(self, spec: str) -> str:
        """Writes value and error: `f"{mean:+.4f}"` is "+0.1234 ± 0.0056". The error has no sign."""
        if np.isnan(self.error) and not np.isnan(self.value):
            return f"{self.value:{spec}} (error unknown)"
        return f"{self.value:{spec}} ± {self.error:{spec.lstrip('+')}}"


def clustered_mean(values: np.ndarray, units: np.ndarray) -> Mean:
    """Returns the mean over tokens with a standard error over units.

    The tokens of one unit may depend on each other. With u units and s_i the sum of (value - mean)
    over the tokens of unit i,

        error = sqrt(u / (u - 1) sum_i s_i^2) / tokens

    the linearised error of a ratio of sums. Source: Cochran, Sampling Techniques, 1977, section
    6.3.

    Args:
        values: [n] the values of the tokens.
        units: [n] the number of each token's unit.
    """
    if not len(values):
        return Mean(np.nan, np.nan, 0)
    mean = float(values.mean())
    _, index = np.unique(units, return_inverse=True)
    sums = np.bincount(index, values - mean)
    count = len(sums)
    error = np.sqrt(count / (count - 1) * (sums**2).sum()) / len(values) if count > 1 else np.nan
    return Mean(mean, float(error), count)
