"""Errors of means of correlated series."""

import math

import numpy as np


def block_error(values: np.ndarray) -> tuple[float, float]:
    """Mean of a correlated stationary series ``[n]`` and the standard error of that mean, by blocking.

    The series is divided into blocks of B = 1, 2, 4, … values (doi:10.1063/1.457480).  The plateau of the error begins
    at the smallest B with B³ > 2 n s⁴, where s is the ratio of the errors at B and at 1
    (doi:10.1103/PhysRevE.83.066706).  If the series is too short to reach it, the largest error of all B is returned.
    The error is NaN for fewer than two values, and too small for correlations longer than the series.
    """
    blocks = np.asarray(values, dtype=np.float64)
    n, mean, errors = len(blocks), float(np.mean(blocks)) if len(blocks) else math.nan, []
    while len(blocks) >= 2:
        errors.append(float(np.std(blocks, ddof=1) / math.sqrt(len(blocks))))
        inefficiency = (errors[-1] / errors[0]) ** 2 if errors[0] > 0 else 0.0
        if 8.0 ** (len(errors) - 1) > 2 * n * inefficiency**2:
            return mean, errors[-1]
        blocks = 0.5 * (blocks[: len(blocks) // 2 * 2 : 2] + blocks[1::2])
    return mean, max(errors, default=math.nan)
