"""Names for the types of numpy arrays that functions take and return."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Int16 = NDArray[np.int16]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
RealArray = NDArray[np.floating[Any]]  # any floating-point precision
FloatWaves = NDArray[np.float32 | np.float64]  # samples in [-1, 1]
# Full scale is 32768 in both: samples stored in 16 bits or less stay int16, all others are float32
PcmWaves = NDArray[np.int16 | np.float32]
AnyArray = NDArray[np.generic]  # samples of any type
