"""What a window may choose from is checked before anything is decided."""

import numpy as np
import pytest

from tests.unit.allocation.windows import make_options


@pytest.mark.parametrize(
    ("prices", "gains", "rank", "sentence"),
    [
        ([[1, 2]], [[0.0]], None, "do not match"),
        ([[1, 2]], [[0.0, 1.0]], [0, 1], "do not match"),
        ([1, 2], [0.0, 1.0], None, "a row per job"),
        ([[1, -2]], [[0.0, 1.0]], None, "at least 0"),
        ([[1, 2**62], [1, 2**62]], [[0.0, 1.0]] * 2, None, "64 bits"),
        ([[1, 2]], [[0.0, np.nan]], None, "finite"),
        ([[1, 2]], [[0.0, np.inf]], None, "finite"),
        ([[1, 2]], [[-1e308, 1e308]], None, "finite"),
    ],
)
def test_options_that_could_not_be_decided_are_refused(prices, gains, rank, sentence):
    with pytest.raises(ValueError, match=sentence), np.errstate(over="ignore"):
        make_options(prices, gains, rank=rank)
