"""Separation by ideal masks, from the true sources: an upper bound for separation by masks in the same transform.

``score_file.py`` scores these estimates like any other. The masks themselves are defined in :func:`_ideal_mask` and in
``audio/masks.py``.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from sepclip.audio.arrays import FloatWaves
from sepclip.audio.masks import ideal_binary_mask, mask_target
from sepclip.audio.stft import STFT
from sepclip.scoring.items import STRETCH, default_frame


def default_stft(rate_hz: int) -> STFT:
    """Return the transform to use if no run sets one."""
    return STFT(*default_frame(rate_hz))


def oracle_estimates(
    names: Sequence[str], *, mixture: FloatWaves, ref: FloatWaves, stft: STFT
) -> Iterator[tuple[str, FloatWaves]]:
    """Yield each oracle's name and estimates (S, T, C) from ``mixture`` (T, C) and its sources ``ref`` (S, T, C).

    Whatever is in the mixture beside the sources, such as noise, counts as one more source. A file longer than
    ``STRETCH`` is separated in stretches, so that memory does not grow with its length.
    """
    samples = len(mixture)
    spans = [(start, min(start + STRETCH, samples)) for start in range(0, samples, STRETCH)]
    # frames within a window's length of a cut differ from those of the whole file: stretches overlap by that much
    margin = -(-stft.window_length // stft.hop_length) * stft.hop_length
    # a file of one stretch is transformed once for all oracles
    whole_file = [_spectra(mixture, ref, stft, 0, samples)] if len(spans) == 1 else None
    for name in names:
        estimate = np.empty(ref.shape, np.float64 if whole_file else np.float32)
        for start, stop in spans:
            # start at a multiple of the hop, so that frames lie as in the whole file
            first = max(0, start - margin) // stft.hop_length * stft.hop_length
            last = min(samples, stop + margin)
            spectrum, sources = whole_file[0] if whole_file else _spectra(mixture, ref, stft, first, last)
            masks = _ideal_mask(name, spectrum, sources)[:, : len(ref)]
            waves = stft.inverse(masks * spectrum.unsqueeze(1), last - first)[..., start - first : stop - first]
            estimate[:, start:stop] = waves.permute(1, 2, 0).numpy()  # (S, t, C)
        yield name, estimate


def _spectra(mixture: FloatWaves, ref: FloatWaves, stft: STFT, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Return the spectra of a stretch of the mixture (C, N, F), and of sources and residual (C, S + 1, N, F)."""
    mixture_wave = torch.from_numpy(np.ascontiguousarray(mixture[first:last].T, np.float64))
    ref_waves = torch.from_numpy(np.ascontiguousarray(ref[:, first:last].transpose(2, 0, 1), np.float64))
    spectrum, sources = stft.forward(mixture_wave), stft.forward(ref_waves)
    residual = spectrum.unsqueeze(1) - sources.sum(1, keepdim=True)
    residual = residual * (residual.abs() > 1e-12 * spectrum.abs().unsqueeze(1))  # rounding is not a source
    return spectrum, torch.cat([sources, residual], 1)


def _ideal_mask(name: str, spectrum: Tensor, sources: Tensor) -> Tensor:
    """Return the mask (C, S, N, F) that ``table.ORACLES`` defines; empty bins are 0."""
    if name == "ibm":
        return ideal_binary_mask(sources)
    if name in ("irm", "wiener"):
        weights = sources.abs() if name == "irm" else sources.abs().square()
        return weights / weights.sum(1, keepdim=True).clamp_min(1e-300)
    target = mask_target(spectrum, sources, "psa" if name == "psm" else "tpsa")
    return target / spectrum.abs().unsqueeze(1).clamp_min(1e-20)
