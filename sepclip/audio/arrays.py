"""The kinds of numpy arrays that functions take and return."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
RealArray = NDArray[np.floating[Any]]  # of any precision
FloatWaves = NDArray[np.float32 | np.float64]  # samples in [-1, 1]
# Full scale is 32768 in both: what is stored in 16 bits or less stays int16, all else is float32
PcmWaves = NDArray[np.int16 | np.float32]
