"""Files a minute of `sepclip eval`, by museval and by the fast engine, against plain loops over museval and openunmix.

    python benchmarks/eval.py voices [--files 150] [--json FILE]
    python benchmarks/eval.py stems [--seconds 60] [--json FILE]

Every arm is a process of its own that reads the files, scores SDR, ISR, SIR and SAR of BSSEval v4 in windows of 1 s and
keeps them; its peak memory is that of all its processes together. ``voices``: pairs of 4 s at 8 kHz from data/speech;
``stems``: two tracks of four stereo sources at 44.1 kHz. openunmix's evaluate scores by ``museval.eval_mus_track``,
which is called here as it calls it. museval wants ffmpeg to be imported.
"""

import argparse
import json
import os
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
from pathlib import Path
from types import SimpleNamespace
import museval, numpy as np, soundfile
folder, kind, sources = Path(sys.argv[1]), sys.argv[2], sys.argv[3].split(",")
found = {}
for path in sorted((folder / "ref" / sources[0]).iterdir()):
    waves, rate = {}, 0
    for part in ("ref", "est"):
        read = [soundfile.read(folder / part / s / path.name, always_2d=True) for s in sources]
        waves[part], rate = np.stack([wave for wave, _ in read]), read[0][1]
    if kind == "museval":
        scores = museval.evaluate(waves["ref"], waves["est"], win=rate, hop=rate)
        found[path.stem] = [np.nanmedian(one, 1).tolist() for one in scores]
    else:  # what the evaluate of openunmix hands its estimates to
        targets = {s: SimpleNamespace(audio=wave) for s, wave in zip(sources, waves["ref"])}
        track = SimpleNamespace(name=path.stem, rate=rate, targets=targets, subset="test")
        found[path.stem] = museval.eval_mus_track(track, dict(zip(sources, waves["est"]))).scores["targets"][0]["name"]
json.dump(found, open(sys.argv[4], "w"))
"""


def voices(folder: Path, files: int) -> None:
    waves = [soundfile.read(path, dtype="float64")[0] for path in sorted(SPEECH.glob("*/*.flac"))[:60]]
    for index in range(files):
        ref = np.stack([np.resize(waves[(index * step) % len(waves)], 32000) for step in (7, 11)])[..., None]
        _lay_out(folder, f"{index:04d}", ref, 8000, ("s1", "s2"), index)


def stems(folder: Path, seconds: float, tracks: int) -> None:
    names = ("bass", "drums", "other", "vocals")
    waves = [resample_poly(soundfile.read(path)[0], 441, 80) for path in sorted(SPEECH.glob("*/0000.flac"))[:8]]
    chance = np.random.default_rng(0)
    for track in range(tracks):
        samples = int(44100 * seconds)
        mono = [np.resize(wave, samples) for wave in waves[track * 4 : track * 4 + 4]]
        ref = np.stack([np.stack([wave, 0.7 * np.roll(wave, 20)], 1) for wave in mono])
        ref += chance.normal(0, 1e-3, ref.shape)  # speech at this rate has nothing above 4 kHz
        _lay_out(folder, f"{track:04d}", ref, 44100, names, track)


def _lay_out(folder: Path, name: str, ref: np.ndarray, rate_hz: int, sources: tuple[str, ...], seed: int) -> None:
    est = ref + 0.1 * np.roll(ref, 1, 0) + np.random.default_rng(seed).normal(0, 3e-3, ref.shape)
    for part, waves in (("ref", ref), ("est", est)):
        for source, wave in zip(sources, waves, strict=True):
            path = folder / part / source / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave, rate_hz, subtype="FLOAT")


def measured(command: list[str]) -> tuple[float, float]:
    """Return the seconds and the peak GiB that a command and its children take."""
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
    """Return the resident bytes of a process and all below it, of what is theirs alone."""
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        try:
            fields = dict(
                line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
            )
            total += int(fields["RssAnon"].split()[0]) * 1024
            waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        except (OSError, KeyError):
            continue
    return total


def largest_difference(one: dict[str, list[list[float]]], other: dict[str, list[list[float]]]) -> float:
    return max(float(np.abs(np.array(one[name]) - np.array(other[name])).max()) for name in one)


def scored(path: Path, sources: tuple[str, ...]) -> dict[str, list[list[float]]]:
    rows = {(row["name"], row["source"]): row for row in json.loads((path / "scores.json").read_text())["rows"]}
    names = dict.fromkeys(name for name, _ in rows)
    return {n: [[rows[n, s][metric] for s in sources] for metric in ("sdr", "isr", "sir", "sar")] for n in names}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("voices", "stems"))
    parser.add_argument("--files", type=int, default=150)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tracks", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources: tuple[str, ...] = ("s1", "s2") if options.what == "voices" else ("bass", "drums", "other", "vocals")
        if options.what == "voices":
            voices(folder, options.files)
        else:
            stems(folder, options.seconds, options.tracks)
        files = len(list((folder / "ref" / sources[0]).iterdir()))
        loop = [sys.executable, "-c", LOOP, name]
        ours = [sys.executable, "-m", "sepclip", "eval", "--estimates", f"{name}/est", "--references", f"{name}/ref"]
        ours += ["--estimate-pattern", "{source}/{name}", "--reference-pattern", "{source}/{name}", "--fixed-order"]
        ours += ["--metrics", "sdr,isr,sir,sar", "--oracles", "none", "--no-improvements"]
        arms = {"loop over museval.evaluate": [*loop, "museval", ",".join(sources), f"{name}/museval.json"]}
        arms["as openunmix evaluates"] = [*loop, "openunmix", ",".join(sources), f"{name}/openunmix.json"]
        arms["sepclip eval"] = [*ours, "--out", f"{name}/slow"]
        arms["sepclip eval --engine fast"] = [*ours, "--engine", "fast", "--out", f"{name}/quick"]
        for arm, command in arms.items():
            seconds, gib = measured(command)
            table[arm] = {"files_a_minute": 60 * files / seconds, "seconds": seconds, "gib": gib}
            ratio = table["loop over museval.evaluate"]["seconds"] / seconds
            print(f"{arm:30} {60 * files / seconds:8.1f} files/min  {seconds:7.1f} s  x{ratio:.2f}  {gib:.2f} GiB")
        want = json.loads((folder / "museval.json").read_text())
        for arm, place in (("sepclip eval", "slow"), ("sepclip eval --engine fast", "quick")):
            table[arm]["largest_difference_db"] = largest_difference(want, scored(folder / place, sources))
            print(f"{arm}: largest difference {table[arm]['largest_difference_db']:.1e} dB")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
