"""Separating sound files: any format, rate, length and channel count in, the same rate, length and level out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from sepclip.audio.files import HIDDEN, BadSound, Sound, find_sounds, read_sound, write_sound
from sepclip.audio.resample import resample
from sepclip.errors import UserError
from sepclip.model.separator import Separator
from sepclip.terminal import track, warn

MOST_MINUTES = 60  # a file is separated in one piece; longer ones may not fit into memory
MOST_MINUTES_OF_WAVES = 10  # by a network of waves, whose learned transform takes about 1 GB a minute
_WAV_SUBTYPES = {"PCM_S8": "PCM_U8"} | {name: name for name in soundfile.available_subtypes("WAV") if "PCM_" in name}
_FLOATS = {"FLOAT", "DOUBLE"}


@dataclass
class Separation:
    """What became of every file: written, already there, or failed with a reason."""

    written: dict[Path, list[Path]] = field(default_factory=dict)
    kept: dict[Path, list[Path]] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)


def separate_files(
    separator: Separator,
    inputs: Sequence[Path],
    out: Path,
    *,
    device: torch.device,
    made_after: float = 0.0,
    overwrite: bool = False,
) -> Separation:
    """Separate files, and the sound files of folders, into ``out`` as ``NAME_s1.wav``, ``NAME_s2.wav``, ...

    Sources with names have these instead: ``NAME_vocals.wav``.
    Folders keep their tree. Files whose results are all there, and newer than both the file and ``made_after`` (when
    the weights were saved), are left as they are unless ``overwrite``. A file that cannot be used is reported, and the
    others go on. Raises UserError where two inputs would be written to the same name, or a result over an input.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: choose a folder")
    result = Separation()
    targets = _plan(inputs, out, separator.layout.names, result)
    for path in track(targets, len(targets), "separating"):
        if not overwrite and _is_done(path, targets[path], made_after):
            result.kept[path] = targets[path]
            continue
        try:
            _require_short(path, MOST_MINUTES_OF_WAVES if separator.takes_waves else MOST_MINUTES)
            sound = read_sound(path)
            estimates = separate_sound(separator, sound, device)  # (S, C, T)
        except BadSound as error:
            result.failed[path] = error.reason
            continue
        except UserError as error:
            result.failed[path] = str(error)
            continue
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error):  # torch's own are no MemoryError
                raise
            result.failed[path] = f"too long for the memory of {device}: cut it into pieces"
            continue
        subtype = wav_subtype(sound.subtype)
        if subtype not in _FLOATS and np.abs(estimates).max(initial=0) > 1:
            warn(f"{path}: an estimate exceeds full scale and is written as 32-bit float, not {subtype}")
            subtype = "FLOAT"
        for target, estimate in zip(targets[path], estimates, strict=True):
            write_sound(target, estimate, sound.rate_hz, subtype)
        result.written[path] = targets[path]
    return result


def separate_sound(separator: Separator, sound: Sound, device: torch.device) -> NDArray[np.float32]:
    """Separate a sound into estimates (S, C, T) at its own rate, length and level."""
    samples = sound.samples.shape[1]
    mixture = torch.from_numpy(sound.samples)  # (C, T)
    mixture = resample(mixture, sound.rate_hz, separator.rate_hz).to(device)  # (C, T')
    estimates = separator.separate(mixture).cpu()  # (S, C, T')
    restored = resample(estimates, separator.rate_hz, sound.rate_hz)[..., :samples]  # (S, C, T)
    # a rate that does not divide can come back one sample short
    padded = torch.nn.functional.pad(restored, (0, samples - restored.shape[-1]))
    return np.asarray(padded.numpy(), np.float32)


def wav_subtype(subtype: str) -> str:
    """Return the sample format in which to write what was stored as ``subtype``: the same where WAV has it."""
    return subtype if subtype in _FLOATS else _WAV_SUBTYPES.get(subtype, "PCM_16")


def _is_done(path: Path, targets: list[Path], made_after: float) -> bool:
    newest = max(path.stat().st_mtime, made_after) if path.exists() else math.inf
    return all(target.is_file() and target.stat().st_mtime >= newest for target in targets)


def _require_short(path: Path, most: int) -> None:
    try:
        minutes = soundfile.info(path).duration / 60
    except soundfile.SoundFileError:
        return  # reading it says what is wrong
    if minutes > most:
        raise BadSound(path, f"{minutes:.0f} min long, more than {most} min: cut it into pieces")


def _plan(inputs: Sequence[Path], out: Path, names: Sequence[str], result: Separation) -> dict[Path, list[Path]]:
    """Return the target files of every input file; what cannot be used goes into ``result.failed``."""
    planned: dict[Path, list[Path]] = {}
    owners: dict[Path, Path] = {}
    for given in inputs:
        files = [(given, Path(given.name))]
        if given.is_dir():
            below, left_out = find_sounds(given)
            for path, reason in left_out.items():
                if reason != HIDDEN:
                    warn(f"{path}: {reason}")
            inside = out.resolve()
            files = [(path, path.relative_to(given)) for path in below if inside not in path.resolve().parents]
            if not files:
                inside_out = "all its sound files lie in --out: choose another --out"
                result.failed[given] = inside_out if below else "a folder without sound files"
        for path, relative in files:
            targets = [out / relative.with_name(f"{relative.stem}_{name}.wav") for name in names]
            other = owners.setdefault(targets[0], path)
            if other != path:
                raise UserError(
                    f"{other} and {path} would both be written to {targets[0]}: separate them into two --out"
                )
            planned[path] = targets
    taken = {path.resolve() for path in planned}
    for path, targets in planned.items():
        hit = next((target for target in targets if target.resolve() in taken), None)
        if hit:
            raise UserError(
                f"{hit} is an input, and the result of {path} would be written over it: choose another --out"
            )
    return planned
