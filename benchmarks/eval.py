"""Compare the files per minute of `sepclip eval` (museval and fast engine) with plain loops over museval and openunmix.

    python benchmarks/eval.py voices [--files 300] [--rounds 3] [--json FILE]
    python benchmarks/eval.py stems [--seconds 180] [--tracks 2] [--arms museval,sepclip] [--json FILE]

Every arm is a process that reads the files, scores SDR, ISR, SIR and SAR of BSSEval v4 in windows of 1 s and saves the
scores; its peak memory is that of all its processes together. ``voices``: pairs of 4 s at 8 kHz from data/speech.
``stems``: tracks of four stereo sources at 44.1 kHz. openunmix's evaluate scores with ``museval.eval_mus_track``, which
is called here in the same way, in one process or (``openunmix2``) in a pool of two, as with its ``--cores 2``. The
import of museval needs ffmpeg.

The arms take turns. ``--json`` adds to the contents of FILE, so that a long measurement can be made in parts; the table
printed at the end is over all rounds in it, with ratios to the plain loop of the same round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

SPEECH = Path(__file__).parent.parent / "data" / "speech"
LOOP = """
import json, sys
from multiprocessing import Pool
from pathlib import Path
from types import SimpleNamespace
import museval, numpy as np, soundfile
folder, kind, sources = Path(sys.argv[1]), sys.argv[2], sys.argv[3].split(",")

def score(name):
    waves, rate = {}, 0
    for part in ("ref", "est"):
        read = [soundfile.read(folder / part / s / name, always_2d=True) for s in sources]
        waves[part], rate = np.stack([wave for wave, _ in read]), read[0][1]
    if kind == "museval":
        scores = museval.evaluate(waves["ref"], waves["est"], win=rate, hop=rate)
        return [np.nanmedian(one, 1).tolist() for one in scores]
    # openunmix's evaluate passes its estimates to this function
    targets = {s: SimpleNamespace(audio=wave) for s, wave in zip(sources, waves["ref"])}
    track = SimpleNamespace(name=name, rate=rate, targets=targets, subset="test")
    return museval.eval_mus_track(track, dict(zip(sources, waves["est"]))).scores["targets"][0]["name"]

names = sorted(path.name for path in (folder / "ref" / sources[0]).iterdir())
if kind == "openunmix2":
    with Pool(2) as pool:
        scores = pool.map(score, names, chunksize=1)
else:
    scores = map(score, names)
json.dump({Path(name).stem: found for name, found in zip(names, scores)}, open(sys.argv[4], "w"))
"""
ARMS = {
    "museval": "loop over museval.evaluate",
    "openunmix": "as openunmix evaluates",
    "openunmix2": "as openunmix --cores 2",
    "sepclip": "sepclip eval",
    "fast": "sepclip eval --engine fast",
}


def voices(folder: Path, files: int) -> None:
    waves = [soundfile.read(path, dtype="float64")[0] for path in sorted(SPEECH.glob("*/*.flac"))[:60]]
    for index in range(files):
        ref = np.stack(
            [np.resize(waves[(index * step + first) % len(waves)], 32000) for step, first in ((7, 0), (11, 1))]
        )[..., None]
        _lay_out(folder, f"{index:04d}", ref, 8000, ("s1", "s2"), index)


def stems(folder: Path, seconds: float, tracks: int) -> None:
    names = ("bass", "drums", "other", "vocals")
    waves = [resample_poly(soundfile.read(path)[0], 441, 80) for path in sorted(SPEECH.glob("*/0000.flac"))[:8]]
    chance = np.random.default_rng(0)
    for track in range(tracks):
        samples = int(44100 * seconds)
        mono = [np.resize(waves[(track * 4 + part) % 8], samples) for part in range(4)]
        ref = np.stack([np.stack([wave, 0.7 * np.roll(wave, 20)], 1) for wave in mono])
        ref += chance.normal(0, 1e-3, ref.shape)  # the speech has no energy above 4 kHz
        _lay_out(folder, f"{track:04d}", ref, 44100, names, track)


def _lay_out(folder: Path, name: str, ref: np.ndarray, rate_hz: int, sources: tuple[str, ...], seed: int) -> None:
    est = ref + 0.1 * np.roll(ref, 1, 0) + np.random.default_rng(seed).normal(0, 3e-3, ref.shape)
    for part, waves in (("ref", ref), ("est", est)):
        for source, wave in zip(sources, waves, strict=True):
            path = folder / part / source / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave, rate_hz, subtype="FLOAT")


def measured(command: list[str]) -> tuple[float, float]:
    """Return the seconds and the peak GiB of a command and its children."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            peak[0] = max(peak[0], _memory(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    if process.returncode:
        raise RuntimeError(errors)
    return seconds, peak[0] / 2**30


def _memory(root: int) -> int:
    """Return the resident bytes of a process and its descendants, without memory that they share with others."""
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        try:
            fields = dict(
                line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
            )
            total += int(fields["RssAnon"].split()[0]) * 1024
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except (OSError, KeyError):
            continue
    return total


def largest_difference(one: dict[str, list[list[float]]], other: dict[str, list[list[float]]]) -> float:
    return max(float(np.abs(np.array(one[name]) - np.array(other[name])).max()) for name in one)


def scored(path: Path, sources: tuple[str, ...]) -> dict[str, list[list[float]]]:
    rows = {(row["name"], row["source"]): row for row in json.loads((path / "scores.json").read_text())["rows"]}
    names = dict.fromkeys(name for name, _ in rows)
    return {n: [[rows[n, s][metric] for s in sources] for metric in ("sdr", "isr", "sir", "sar")] for n in names}


def commands(folder: str, sources: tuple[str, ...]) -> dict[str, list[str]]:
    found = {
        kind: [sys.executable, "-c", LOOP, folder, kind, ",".join(sources), f"{folder}/{kind}.json"]
        for kind in ("museval", "openunmix", "openunmix2")
    }
    ours = [sys.executable, "-m", "sepclip", "eval", "--estimates", f"{folder}/est", "--references", f"{folder}/ref"]
    ours += ["--estimate-pattern", "{source}/{name}", "--reference-pattern", "{source}/{name}", "--fixed-order"]
    ours += ["--metrics", "sdr,isr,sir,sar", "--oracles", "none", "--no-improvements"]
    return {
        **found,
        "sepclip": [*ours, "--out", f"{folder}/sepclip"],
        "fast": [*ours, "--engine", "fast", "--out", f"{folder}/fast"],
    }


def _spread(values: list[float], digits: int) -> str:
    shown = [f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values))]
    return shown[0] if len(values) == 1 else f"{shown[0]} [{shown[1]}..{shown[2]}]"


def tell(runs: dict[str, list[dict[str, float]]], differences: dict[str, float]) -> None:
    print("| arm | rounds | files/min | seconds | to the plain loop | GiB |\n|---|---|---|---|---|---|")
    for arm, found in runs.items():
        cells = [ARMS[arm], str(len(found)), _spread([one["files_a_minute"] for one in found], 1)]
        cells.append(_spread([one["seconds"] for one in found], 1))
        pairs = list(zip(runs.get("museval", []), found, strict=False))
        cells.append(
            _spread([one["files_a_minute"] / loop["files_a_minute"] for loop, one in pairs], 2) if pairs else "-"
        )
        cells.append(_spread([one["gib"] for one in found], 2))
        print(f"| {' | '.join(cells)} |")
    for arm, value in differences.items():
        print(f"{ARMS[arm]}: largest difference to museval {value:.1e} dB")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("voices", "stems"))
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--tracks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--folder", type=Path, help="keep the files in this folder for another call")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    before = json.loads(options.json.read_text()) if options.json and options.json.is_file() else {}
    runs, differences = before.get("runs", {}), before.get("largest_difference_db", {})
    sources: tuple[str, ...] = ("s1", "s2") if options.what == "voices" else ("bass", "drums", "other", "vocals")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "est").is_dir():
            if options.what == "voices":
                voices(folder, options.files)
            else:
                stems(folder, options.seconds, options.tracks)
        files = len(list((folder / "ref" / sources[0]).iterdir()))
        for _ in range(options.rounds):
            for arm in options.arms.split(","):
                seconds, gib = measured(commands(str(folder), sources)[arm])
                runs.setdefault(arm, []).append(
                    {"files_a_minute": 60 * files / seconds, "seconds": seconds, "gib": gib}
                )
                print(
                    f"{ARMS[arm]:30} {60 * files / seconds:8.1f} files/min  {seconds:7.1f} s  {gib:.2f} GiB", flush=True
                )
        if (folder / "museval.json").is_file():
            want = json.loads((folder / "museval.json").read_text())
            for arm in ("sepclip", "fast"):
                if (folder / arm / "scores.json").is_file():
                    differences[arm] = largest_difference(want, scored(folder / arm, sources))
    runs = {arm: runs[arm] for arm in ARMS if arm in runs}
    tell(runs, differences)
    if options.json:
        options.json.write_text(json.dumps({"runs": runs, "largest_difference_db": differences}, indent=1) + "\n")


if __name__ == "__main__":
    main()
