import pytest

from sepclip.audio.resample import load_torchaudio

load_torchaudio()  # transformers 5 imports it too, but not around its compiled part where that does not load


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    """Nothing is asked of the network, sent to it, or written outside the test's own folder."""
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.chdir(tmp_path)
