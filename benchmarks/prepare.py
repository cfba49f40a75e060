"""Compare the speed of `prepare` with a bare read-mix-write loop over the same files on the same cores.

    python benchmarks/prepare.py RECORDINGS [--files 300] [--mixtures 600] [--rounds 5] [--jobs 2] [--folder DIR]

RECORDINGS is a folder with one sub-folder per voice. Imitations of WSJ0 (16 kHz wav) and of LibriSpeech (16 kHz flac)
are written from it once, with lists of mixtures; both are prepared at 8 kHz, min. The bare loop reads with soundfile,
resamples, scales, adds and writes with soundfile, in as many forked processes as `prepare` has, and does nothing else:
no survey beforehand, no checks, no atomic replacement of files, no flush, no recipes. The arms take turns; the ratio is
the bare loop's time to that of the whole `prepare`, within a round, by the wall clock (which other programs on the
cores disturb) and by CPU time (which excludes waiting). Active levels, which `prepare wsj0-2mix` measures once per
utterance, come from a table and are timed separately. Reading lists of the official sizes is timed too.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import soundfile
from scipy.signal import resample_poly

from sepclip import startup
from sepclip.audio.files import find_sounds, mono_at_rate, read_sound
from sepclip.corpora.librimix.lists import read_tables, subsets_of
from sepclip.corpora.librimix.plan import LibriSettings, plan_librimix
from sepclip.corpora.preflight import Preflight
from sepclip.corpora.wsj0.lists import read_lists
from sepclip.corpora.wsj0.plan import Wsj0Settings, measure_levels, plan_wsj0

RATE_HZ, SET_HZ = 16000, 8000
SHARES = {"tr": 0.8, "cv": 0.1, "tt": 0.1}
SUBSETS = {"tr": "train-clean-100", "cv": "dev-clean", "tt": "test-clean"}
Job = tuple[tuple[str, str], tuple[float, float], str]  # files, gains, name


def make_utterances(recordings: Path, folder: Path, most: int) -> dict[int, list[int]]:
    """Write some recordings as utterances of both corpora; return their numbers by voice."""
    found = find_sounds(recordings)[0]
    random.Random(0).shuffle(found)
    names = sorted({path.relative_to(recordings).parts[0] for path in found[:most]})
    voices: dict[int, list[int]] = {}
    for number, path in enumerate(found[:most]):
        voice = names.index(path.relative_to(recordings).parts[0])
        sound = read_sound(path)
        wave = np.rint(32767 * mono_at_rate(sound.samples, sound.rate_hz, RATE_HZ).clip(-1, 1)).astype(np.int16)
        for target in (folder / wsj0_path(voice, number), *(folder / libri_path(s, voice, number) for s in SUBSETS)):
            target.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(target, wave, RATE_HZ)
        voices.setdefault(voice, []).append(number)
    return voices


def wsj0_path(voice: int, number: int) -> str:
    return f"wsj0/si_tr_s/{voice:03d}/{voice:03d}a{number:04d}.wav"


def libri_path(split: str, voice: int, number: int) -> str:
    return f"LibriSpeech/{SUBSETS[split]}/{voice}/1/{voice}-1-{number:04d}.flac"


def write_lists(folder: Path, voices: dict[int, list[int]], counts: dict[str, int]) -> dict[str, list[tuple[str, Job]]]:
    """Write lists for both corpora and return the jobs of the bare loops: split and job, by corpus."""
    chance = random.Random(1)
    jobs: dict[str, list[tuple[str, Job]]] = {"wsj0-2mix": [], "librimix": []}
    seen = set()
    for split, count in counts.items():
        lines, rows = [], ["mixture_ID,source_1_path,source_1_gain,source_2_path,source_2_gain"]
        while len(lines) < count:
            pair = [(voice, chance.choice(voices[voice])) for voice in chance.sample(sorted(voices), 2)]
            if tuple(pair) in seen:
                continue
            seen.add(tuple(pair))
            level = round(chance.uniform(0, 2.5), 4)
            one, two = (wsj0_path(*utterance) for utterance in pair)
            lines.append(f"{one} {level} {two} {-level} \n")
            names = [Path(path).stem for path in (one, two)]
            gains = (10 ** (level / 20) * 5, 10 ** (-level / 20) * 5)
            jobs["wsj0-2mix"].append((split, ((one, two), gains, f"{names[0]}_{level}_{names[1]}_{-level}")))
            one, two = (libri_path(split, *utterance) for utterance in pair)
            names = [Path(path).stem for path in (one, two)]
            rows.append(f"{'_'.join(names)},{one.split('/', 1)[1]},0.8,{two.split('/', 1)[1]},0.7")
            jobs["librimix"].append((split, ((one, two), (0.8, 0.7), "_".join(names))))
        (folder / f"mix_2_spk_{split}.txt").write_text("".join(lines))
        (folder / f"libri2mix_{SUBSETS[split]}.csv").write_text("\n".join(rows) + "\n")
    return jobs


def bare(corpus: str, root: Path, out: Path, job: tuple[str, Job]) -> None:
    """Read, mix and write one mixture, and nothing else."""
    split, (paths, gains, name) = job
    kind = "float64" if corpus == "wsj0-2mix" else "float32"
    waves = [
        gain * resample_poly(soundfile.read(root / path, dtype=kind)[0], SET_HZ, RATE_HZ)
        for path, gain in zip(paths, gains, strict=True)
    ]
    length = min(map(len, waves))
    one, two = waves[0][:length], waves[1][:length]
    both = one + two
    scale = 0.9 / max(1.0, *(np.abs(wave).max() for wave in (both, one, two))) if corpus == "wsj0-2mix" else 1
    for part, wave in zip(("mix", "s1", "s2"), (both, one, two), strict=True):
        soundfile.write(out / split / part / f"{name}.wav", wave * scale, SET_HZ)


def run_bare(corpus: str, root: Path, jobs: list[tuple[str, Job]], processes: int, out: Path) -> None:
    for split in SUBSETS:
        for part in ("mix", "s1", "s2"):
            (out / split / part).mkdir(parents=True)
    with ProcessPoolExecutor(processes, get_context("fork")) as pool:
        list(pool.map(partial(bare, corpus, root, out), jobs, chunksize=4))


def run_prepare(corpus: str, root: Path, threads: int, out: Path) -> None:
    if corpus == "wsj0-2mix":
        plan = plan_wsj0(
            root / "wsj0",
            out,
            {out: Wsj0Settings(2)},
            corpus=corpus,
            lists=root,
            active_levels=root / "levels.txt",
            jobs=threads,
        )
    else:
        plan = plan_librimix(root, out, {out: LibriSettings(2, train="train-100")}, corpus=corpus, jobs=threads)
    plan.prepare()


def seconds(work: Callable[[], object]) -> float:
    os.sync()  # write out what other programs left in the cache first
    began = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        work()
    return time.perf_counter() - began


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def reading_seconds(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Yield the seconds that reading lists of the official sizes takes."""
    everyone = {voice: list(range(100)) for voice in range(119)}
    folder.mkdir()
    write_lists(folder, everyone, {"tr": 20000, "cv": 5000, "tt": 3000})
    preflight = Preflight(folder)
    yield "lists of wsj0-2mix", 28000, min(seconds(lambda: read_lists(folder, 2, preflight)) for _ in range(3))
    write_lists(folder, everyone, {"tr": 50800, "cv": 3000, "tt": 3000})
    subsets = subsets_of("train-100")
    took = min(seconds(lambda: read_tables(folder, 2, subsets, preflight, noise=False)) for _ in range(3))
    yield "tables of LibriMix", 56800, took


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--mixtures", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, help="working folder, such as /dev/shm to exclude the disk")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table: dict[str, object] = {"options": {key: str(value) for key, value in vars(options).items()}}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        startup.keep_memory()  # as the command line does for prepare
        folder = Path(name)
        voices = make_utterances(options.recordings, folder, options.files)
        counts = {split: int(share * options.mixtures) for split, share in SHARES.items()}
        jobs = write_lists(folder, voices, counts)
        wanted = {Path(path).stem: folder / path for _, (paths, *_) in jobs["wsj0-2mix"] for path in paths}
        took = seconds(lambda: measure_levels(wanted, {}, folder / "levels.txt", options.jobs))
        table["levels"] = {"utterances": len(wanted), "seconds": took}
        print(f"active levels of {len(wanted)} utterances: {took:.2f} s, {1e3 * took / len(wanted):.1f} ms each")
        for corpus, mine in jobs.items():
            arms = {
                "bare": partial(run_bare, corpus, folder, mine, options.jobs),
                "prepare": partial(run_prepare, corpus, folder, options.jobs),
            }
            for work in arms.values():  # one warm-up
                work(folder / "out")
                shutil.rmtree(folder / "out")
            times: dict[str, dict[str, list[float]]] = {clock: {arm: [] for arm in arms} for clock in ("wall", "CPU")}
            for turn in range(options.rounds):
                for arm in sorted(arms, reverse=bool(turn % 2)):
                    began = cpu_seconds()
                    times["wall"][arm].append(seconds(partial(arms[arm], folder / "out")))
                    times["CPU"][arm].append(cpu_seconds() - began)
                    shutil.rmtree(folder / "out")
            table[corpus] = times
            for clock, took in times.items():
                ratios = [one / other for one, other in zip(took["bare"], took["prepare"], strict=True)]
                print(
                    f"{corpus:10} {len(mine)} mixtures, {clock:4} seconds: bare {median(took['bare']):.2f}, prepare "
                    f"{median(took['prepare']):.2f}, x{median(ratios):.2f} [{min(ratios):.2f}..{max(ratios):.2f}]",
                    flush=True,
                )
        for what, lines, took in reading_seconds(folder / "lists"):
            table[what] = {"lines": lines, "seconds": took}
            print(f"{what}, {lines} lines: {took:.2f} s")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
