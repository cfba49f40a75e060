import numpy as np
import pytest
import soundfile

from sepclip.audio.loudness import LAWS
from tests.conftest import SPEECH

RATE = 48000


def tone(seconds=3.0, amplitude=1.0, hertz=997.0, rate_hz=RATE):
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate_hz)) / rate_hz)


def db(law, wave, rate_hz=RATE):
    return 20 * np.log10(LAWS[law](wave, rate_hz))


@pytest.fixture(autouse=True)
def _skip_lufs_without_pyloudnorm(request):
    if "lufs" in request.node.name:
        pytest.importorskip("pyloudnorm")


# levels of a full-scale sine; BS.1770 states -3.01 LUFS at 997 Hz
@pytest.mark.parametrize(("law", "want"), [("rms", -3.0103), ("p56", -3.0103), ("lufs", -3.01)])
def test_tone_has_its_known_level(law, want):
    assert db(law, tone(20)) == pytest.approx(want, abs=0.1)
    assert db(law, tone(20, amplitude=0.1)) == pytest.approx(want - 20, abs=0.1)


@pytest.mark.parametrize(("law", "drop"), [("rms", 3.01), ("p56", 0), ("lufs", 0)])
def test_pauses_lower_only_the_rms(law, drop):
    wave = tone(8)
    assert db(law, wave) - db(law, np.concatenate([wave, np.zeros(8 * RATE)])) == pytest.approx(drop, abs=0.25)


@pytest.mark.parametrize("law", LAWS)
def test_silence_has_no_level(law):
    assert LAWS[law](np.zeros(8000), 8000) == 0
    assert LAWS[law](np.zeros(0), 8000) == 0


@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_lufs_of_speech_equals_pyloudnorm(rate_hz):
    import pyloudnorm

    wave = soundfile.read(sorted((SPEECH / "en-f").glob("*.flac"))[0])[0]
    want = pyloudnorm.Meter(rate_hz).integrated_loudness(wave)
    assert db("lufs", wave.astype(np.float32), rate_hz) == pytest.approx(want, abs=1e-4)
    short = wave[8000 : 8000 + rate_hz // 5]  # too short for pyloudnorm itself
    assert np.isfinite(db("lufs", short, rate_hz))
