"""What the processor of this machine can do."""

import pytest

from sepclip.training.hardware import runs_bf16

NEEDS_BF16 = pytest.mark.skipif(not runs_bf16(), reason="this processor has no LSTM in bfloat16")
