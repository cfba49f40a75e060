"""Compare time and memory of separating long sounds: sepclip, asteroid, nussl, and the network alone.

    (to include asteroid and nussl, pip install them into a separate environment and give --peer-python)
    OMP_NUM_THREADS=2 python benchmarks/separate.py [--seconds 4,60,600] [--rounds 3] [--json FILE]
        [--peer-python PYTHON] [--speech data/speech]
    python benchmarks/separate.py --quality RUN,RUN    # SI-SDR of the command, and in float32 in one piece

The network has 2 x 300 units, with masks or embeddings of 20 dimensions, and initial weights, because the time hardly
depends on them. Every figure comes from a separate process, and the arms take turns. A process imports, loads,
separates 2 s as warm-up, and is then timed from the wave in memory to the waves in memory. Peak memory is that of the
process. sepclip's arms are in bfloat16 if the processor supports it, or in float32 (`-fp32`), as the peers are. The
floor is the forward pass of the same network (BLSTM and heads) on a magnitude that is already computed, and nothing
before or after: `floor`, the whole sound as one sequence in float32; `floor-bf16`, the same in bfloat16;
`floor-blocks`, in blocks of 10 s without overlap, 16 at once, in sepclip's precision (its waves would be useless).
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from types import ModuleType

RATE = 8000
BATCH = 16  # blocks of 10 s that `floor-blocks` computes at once
SIZES = {"layers": 2, "hidden": 300, "dropout": 0.3, "embedding_size": 20}
FLOORS = ("floor", "floor-bf16", "floor-blocks")
OWN = ("mi", "dc", "mi-fp32", "dc-fp32", *(f"{floor}-{loss}" for floor in FLOORS for loss in ("mi", "dc")))
PEERS = ("asteroid", "nussl")


def voices(speech: Path, seconds: float):
    """Return two voices (2, T), repeated to the required length."""
    import numpy as np
    import soundfile

    waves = []
    for voice in ("en-f", "ca-m"):
        files = sorted((speech / voice).glob("*.flac"))[:12]
        wave = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in files])
        waves.append(np.resize(wave, int(seconds * RATE)))
    return np.stack(waves)


def mixture(speech: Path, seconds: float):
    """Return two voices speaking at once, (T,)."""
    return voices(speech, seconds).sum(0)


def own(arm: str):
    """Return a function that separates a wave (T,) by sepclip, or runs the network alone."""
    import torch

    from sepclip.audio.layout import Layout
    from sepclip.config.load import load_config
    from sepclip.model.inference import BlockSeparator, InferenceOptions
    from sepclip.separation.stream import separate_wave
    from sepclip.training.hardware import resolve_precision
    from sepclip.training.state import build_separator

    loss, cpu = ("dc" if "dc" in arm else "mi"), torch.device("cpu")
    config = load_config("base", flags={"loss.name": loss, **{f"model.{key}": value for key, value in SIZES.items()}})
    made = build_separator(config, Layout(RATE, 2)).eval()
    exact = "fp32" in arm or arm in ("floor-mi", "floor-dc")
    bf16 = not exact and resolve_precision("auto", cpu) == "bf16"
    separator = BlockSeparator(made, InferenceOptions(precision="bf16" if bf16 else "fp32"))
    if loss == "mi":  # make the sources differ, as those of a trained network do, so that joining blocks is as easy
        with torch.no_grad():
            made.network.heads["mask"].bias.view(129, 2)[:40] += torch.tensor([3.0, -3.0])
            made.network.heads["mask"].bias.view(129, 2)[40:] += torch.tensor([-3.0, 3.0])
    if not arm.startswith("floor"):
        return lambda wave: separate_wave(separator, torch.from_numpy(wave).unsqueeze(0), RATE, cpu)

    @torch.inference_mode()
    def forward(wave):
        magnitude = made.stft.forward(torch.from_numpy(wave).unsqueeze(0)).abs()
        if arm.startswith("floor-blocks"):
            blocks = magnitude[:, : magnitude.shape[1] // 1250 * 1250].reshape(-1, 1250, 129)
            magnitude = blocks if len(blocks) else magnitude
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for batch in magnitude.split(BATCH):
                made.network(batch)
        return time.perf_counter() - began

    return forward


def asteroid():
    """Return asteroid's deep clustering separation, as in its recipe egs/wsj0-mix/DeepClustering."""
    import torch

    without_compiled_torchaudio()
    from asteroid.dsp.vad import ebased_vad
    from asteroid.masknn.recurrent import SingleRNN
    from asteroid_filterbanks import make_enc_dec
    from asteroid_filterbanks.transforms import apply_mag_mask, mag
    from sklearn.cluster import KMeans

    encoder, decoder = make_enc_dec("stft", n_filters=256, kernel_size=256, stride=64, sample_rate=RATE)
    rnn = SingleRNN("lstm", 129, 300, n_layers=2, dropout=0.3, bidirectional=True).eval()
    layer = torch.nn.Linear(600, 129 * 20)

    @torch.no_grad()
    def separate(wave):
        spectrum = encoder(torch.from_numpy(wave)[None, None])  # (1, 258, N)
        magnitude = mag(spectrum)  # (1, 129, N)
        hidden = rnn((magnitude + 1e-8).log().transpose(1, 2))
        projection = torch.sigmoid(layer(hidden)).reshape(1, -1, 129, 20).transpose(1, 2).reshape(1, -1, 20)
        norm = projection.norm(p=2, dim=-1, keepdim=True)
        points = projection / (norm + 1e-8)  # (1, F N, E)
        heard = ebased_vad(magnitude).reshape(-1)
        kept = points[0][heard.bool()].numpy()
        clusters = KMeans(n_clusters=2, random_state=0, n_init=10).fit(kept)
        assigned = torch.zeros(heard.shape, dtype=torch.float32)
        assigned[heard.bool()] = torch.from_numpy(clusters.labels_).float()
        mask = assigned.reshape(magnitude.shape)
        masks = torch.stack([mask, 1 - mask], 1)  # (1, 2, F, N)
        return decoder(apply_mag_mask(spectrum.unsqueeze(1), masks))

    return separate


def without_compiled_torchaudio() -> None:
    """Make torchaudio importable beside a torch that its compiled part does not support."""
    stand_in = ModuleType("torchaudio._extension")
    stand_in._IS_TORCHAUDIO_EXT_AVAILABLE = stand_in._IS_ALIGN_AVAILABLE = False
    stand_in.fail_if_no_align = lambda function: function
    sys.modules["torchaudio._extension"] = stand_in


def nussl():
    """Return nussl's DeepClustering with the network of its recipes."""
    import tempfile

    import scipy.signal
    import torch

    torch.load = partial(torch.load, weights_only=False)  # its model files contain objects
    without_compiled_torchaudio()
    for name in ("hamming", "hann", "blackman"):  # newer releases of scipy have moved these
        setattr(scipy.signal, name, getattr(scipy.signal.windows, name))
    import nussl as library
    from nussl.ml.networks import builders

    config = builders.build_recurrent_dpcl(129, 300, 2, True, 0.3, 20, ["sigmoid", "unit_norm"], num_audio_channels=1)
    model = library.ml.SeparationModel(config)
    path = Path(tempfile.mkdtemp()) / "model.pth"
    stft = library.STFTParams(window_length=256, hop_length=64, window_type="sqrt_hann")
    model.save(path)
    saved = torch.load(path)
    steps = library.datasets.transforms
    transform = steps.Compose([steps.MagnitudeSpectrumApproximation(), steps.ToSeparationModel()])
    facts = {"stft_params": stft, "sample_rate": RATE, "num_channels": 1, "config": config}
    saved["metadata"] = {**saved["metadata"], **facts, "train_dataset": {"transforms": transform}}
    torch.save(saved, path)

    def separate(wave):
        signal = library.AudioSignal(audio_data_array=wave[None].astype("float64"), sample_rate=RATE, stft_params=stft)
        separator = library.separation.deep.DeepClustering(signal, num_sources=2, model_path=str(path), device="cpu")
        return [estimate.audio_data for estimate in separator()]

    return separate


def measure(arm: str, speech: Path, seconds: float) -> dict[str, float]:
    """Time one arm in this process."""
    separate = {"asteroid": asteroid, "nussl": nussl}[arm]() if arm in PEERS else own(arm)
    separate(mixture(speech, 2.0))
    wave = mixture(speech, seconds)
    began = time.perf_counter()
    own_time = separate(wave)
    spent = own_time if isinstance(own_time, float) else time.perf_counter() - began
    return {"seconds": spent, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def quality(run: Path, speech: Path, seconds: float) -> str:
    """Return the SI-SDR of a run as the command separates, and in one piece in float32 with all bins clustered."""
    import torch

    from sepclip.audio.permutation import best_permutation
    from sepclip.audio.si_sdr import pairwise_si_sdr
    from sepclip.model.inference import BlockSeparator
    from sepclip.separation.trained import Separator

    cpu = Separator.load(run, device="cpu", precision="fp32")
    auto = Separator.load(run, device="cpu")
    ref = torch.from_numpy(voices(speech, seconds))  # (S, T)
    mixed = ref.sum(0)
    scores = {}
    for name, est in (
        ("command", auto.separate(mixed, RATE)),
        ("whole", BlockSeparator(cpu.network).separate(mixed[None])[:, 0]),
    ):
        score, _ = best_permutation(pairwise_si_sdr(est=est[None], ref=ref[None]), maximise=True)
        scores[name] = float(score)
    return f"{run}, {seconds:g} s: {scores['command']:.3f} dB, in one piece in float32 {scores['whole']:.3f} dB"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", default="4,60,600")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arms")
    parser.add_argument("--peer-python", help="Python of an environment with asteroid and nussl")
    parser.add_argument("--speech", type=Path, default=Path("data/speech"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quality", metavar="RUN,...")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    lengths = [float(text) for text in options.seconds.split(",")]
    if options.quality:
        for run in options.quality.split(","):
            for seconds in lengths:
                print(quality(Path(run), options.speech, seconds), flush=True)
        return
    if options.one:
        print(json.dumps(measure(options.one, options.speech, lengths[0])))
        return
    arms = options.arms.split(",") if options.arms else [*OWN, *(PEERS if options.peer_python else ())]
    rows = []
    for seconds in lengths:
        for turn in range(options.rounds):
            for arm in arms:
                python = options.peer_python if arm in PEERS else sys.executable
                command = [python, __file__, "--one", arm, "--seconds", str(seconds), "--speech", str(options.speech)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    print(f"{arm}, {seconds:g} s: failed\n{done.stderr[-1500:]}", file=sys.stderr)
                    continue
                rows.append({"arm": arm, "length": seconds, "round": turn, **json.loads(done.stdout.splitlines()[-1])})
        print(f"{seconds:g} s of sound: median seconds [min..max], real-time factor, peak MB")
        for arm in arms:
            found = [row for row in rows if row["arm"] == arm and row["length"] == seconds]
            if found:
                times = [row["seconds"] for row in found]
                peak = max(row["peak_mb"] for row in found)
                middle = median(times)
                spread = f"[{min(times):.2f}..{max(times):.2f}]"
                print(f"  {arm:16} {middle:7.2f} {spread:16} {middle / seconds:.4f} {peak:6.0f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
