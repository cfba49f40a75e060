import numpy as np
import pytest
from scipy.signal import resample_poly

from sepclip.audio import polyphase


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("from_hz", "to_hz"), [(16000, 8000), (8000, 16000), (44100, 16000), (16000, 16000)])
@pytest.mark.parametrize("samples", [1, 7, 4001])
def test_resample_equals_scipy_bit_for_bit(dtype, from_hz, to_hz, samples):
    wave = np.random.default_rng(samples).standard_normal(samples).astype(dtype)
    want = resample_poly(wave, to_hz, from_hz)
    for _ in range(2):  # the second call uses the cached filter
        resampled = polyphase.resample(wave, from_hz, to_hz)
        assert resampled.dtype == want.dtype == dtype
        assert np.array_equal(resampled, want)
