"""Compare the peak memory of scoring one file with the estimate of `sepclip eval`, for both engines.

    python benchmarks/eval_memory.py [--cases 2x1x600@8000,4x2x180@44100] [--engines museval,fast] [--json FILE]

Each case is SOURCESxCHANNELSxSECONDS@RATE of noise in files, scored in a separate process with all scores, oracles and
improvements, as `sepclip eval` does by default. The peak is the resident memory without the code of libraries.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from sepclip.scoring.engines import memory_needed

CASES = "2x1x4@8000,2x1x600@8000,3x1x300@16000,2x2x60@44100,4x2x30@44100,6x2x12@48000,4x2x180@44100"
CHILD = """
import sys
from pathlib import Path
from sepclip.evaluation.folders import folder_items
from sepclip.scoring.items import ScoringPlan
from sepclip.scoring.score_many import score
if sys.argv[2] != "none":
    folder = Path(sys.argv[1])
    rows = score(folder_items(folder / "est", folder / "ref"), ScoringPlan(engine=sys.argv[2]), jobs=0, memory=2**50)
    assert all(row.status == "ok" for row in rows), rows[0].reason
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print((int(status["VmHWM"].split()[0]) - int(status["RssFile"].split()[0])) * 1024)
"""


def lay_out(folder: Path, sources: int, channels: int, seconds: float, rate_hz: int) -> None:
    chance = np.random.default_rng(0)
    for part in ("ref", "est"):
        for source in range(1, sources + 1):
            path = folder / part / f"s{source}" / "noise.wav"
            path.parent.mkdir(parents=True)
            wave = chance.standard_normal((int(seconds * rate_hz), channels), dtype=np.float32)
            soundfile.write(path, 0.1 * wave, rate_hz, subtype="FLOAT")


def peak(folder: Path, engine: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), engine], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--engines", default="museval,fast")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = json.loads(options.json.read_text()) if options.json and options.json.is_file() else []
    print("| sources x channels x seconds @ Hz | engine | peak, GiB | rule, GiB | peak / rule |\n|---|---|---|---|---|")
    for case in options.cases.split(","):
        shape, rate = case.split("@")
        sources, channels, seconds = shape.split("x")
        size = (int(float(seconds) * int(rate)), int(sources), int(channels))
        with tempfile.TemporaryDirectory() as name:
            lay_out(Path(name), int(sources), int(channels), float(seconds), int(rate))
            for engine in options.engines.split(","):
                most, rule = peak(Path(name), engine), memory_needed(engine, *size)
                line = f"| {case} | {engine} | {most / 2**30:.2f} | {rule / 2**30:.2f} | {most / rule:.2f} |"
                print(line, flush=True)
                found.append({"case": case, "engine": engine, "peak": most, "rule": rule})
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
