import pytest

from sepclip.audio.resample import load_torchaudio

load_torchaudio()  # transformers 5 imports torchaudio too, but fails if its compiled part does not load


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    """Keep libraries off the network, and files in the folder of the test."""
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.chdir(tmp_path)
