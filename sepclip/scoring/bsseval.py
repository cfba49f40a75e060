"""BSSEval v4 and v3 as museval defines them (Vincent et al. 2006, Stöter et al. 2018), with less work and in blocks.

An estimate is projected on what filters of 512 taps can make of its own reference (all channels), and of all
references. The filters are those of least squares over the whole file. What is done otherwise than in museval changes
rounding alone: correlations are summed over blocks, one Cholesky factorisation serves all estimates, and energies of
windows are taken from the spectra (Parseval).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, linalg
from scipy.linalg import lapack

from sepclip.audio.arrays import Float64, FloatWaves
from sepclip.scoring.museval_adapter import Unscorable

Spectra = NDArray[np.complex128]
TAPS = 512  # of the filters, as in every BSSEval
_BLOCK = 2**15  # samples of a transform, where the file is longer: it stays in the cache
# Below this reciprocal condition the filters hang on rounding, and so do scores in their sixth digit (docs/METHOD.md)
_LEAST_RCOND = 1e-12


class IllConditioned(Unscorable):
    """The references depend on each other, so that rounding decides about the filters."""


@dataclass(frozen=True)
class BSSEval:
    """Scores in dB by name: ``frames`` (S, windows) of v4, ``whole`` (S,) of v3; each empty where not wanted."""

    frames: dict[str, Float64]
    whole: dict[str, Float64]


def decompose(*, est: FloatWaves, ref: FloatWaves, rate_hz: int, frames: bool = True, whole: bool = True) -> BSSEval:
    """Score ``est`` (S, T, C), or one estimate (1, T, C) of all sources such as the mixture, against ``ref`` (S, T, C).

    ``frames``: SDR, ISR, SIR and SAR of v4 in windows of 1 s without overlap; NaN where a source or estimate is silent
    (their channels sum to zeros, as museval has it). ``whole``: SDR, SIR and SAR of v3 ("sources") over the file.
    Nothing is permuted. Raises IllConditioned where the references determine no filters.
    """
    every, own = _filters(est, ref)
    return BSSEval(
        _score_windows(est, ref, every, own, rate_hz) if frames else {},
        _score_whole(est, ref, every, own) if whole else {},
    )


def _rows(waves: FloatWaves, start: int, stop: int) -> Float64:
    """Return samples ``start`` to ``stop`` of (S, T, C), zeros beyond both ends, as rows (S C, stop - start)."""
    sources, samples, channels = waves.shape
    rows = np.zeros((sources * channels, stop - start))
    there = slice(max(start, 0), min(stop, samples))
    if there.start < there.stop:
        part = waves[:, there].transpose(0, 2, 1).reshape(len(rows), -1)
        rows[:, there.start - start : there.stop - start] = part
    return rows


def _correlations(est: FloatWaves, ref: FloatWaves) -> Float64:
    """Return (K, K + M, 512): sum over t of r[k, t] z[m, t + lag], for the channels r of ``ref`` and z of both."""
    samples, (k, m) = ref.shape[1], (ref.shape[0] * ref.shape[2], est.shape[0] * est.shape[2])
    length = min(_BLOCK, fft.next_fast_len(samples + TAPS - 1, real=True))
    step = length - (TAPS - 1)
    spectra = np.zeros((k, k + m, length // 2 + 1), np.complex128)
    for start in range(0, samples, step):
        later = np.concatenate([_rows(wave, start, start + length) for wave in (ref, est)])  # (K + M, length)
        here = np.conj(fft.rfft(later[:k, :step], length))  # (K, F)
        later = fft.rfft(later)  # (K + M, F)
        for row in range(k):
            spectra[row] += here[row] * later
    return np.ascontiguousarray(fft.irfft(spectra, length)[..., :TAPS])


def _filters(est: FloatWaves, ref: FloatWaves) -> tuple[Float64, Float64]:
    """Return the filters from all channels of all references (K, M, 512), and from each source's own (S, C, C, 512).

    The second are for the estimate of the same index, or for the only one.
    """
    sources, _, channels = ref.shape
    lags = _correlations(est, ref)
    k = sources * channels
    gram = _gram(lags[:, :k])
    cross = lags[:, k:].transpose(0, 2, 1)  # (K, 512, M)
    own = np.empty((sources, channels, channels, TAPS))
    for source in range(sources):
        size, first = channels * TAPS, source * channels
        block = gram[source * size : (source + 1) * size, source * size : (source + 1) * size].copy(order="F")
        column = first if len(est) > 1 else 0
        right = cross[first : first + channels, :, column : column + channels].reshape(size, channels)
        own[source] = _solve(block, right).reshape(channels, TAPS, channels).transpose(0, 2, 1)
    every = _solve(gram, cross.reshape(k * TAPS, -1)).reshape(k, TAPS, -1).transpose(0, 2, 1)
    return np.ascontiguousarray(every), own


def _gram(lags: Float64) -> Float64:
    """Return the Gram matrix (K 512, K 512) of all delays of all channels; its lower blocks alone are filled."""
    k = len(lags)
    gram = np.zeros((k * TAPS, k * TAPS), order="F")
    for row in range(k):
        for column in range(row + 1):
            values = np.concatenate([lags[column, row, :0:-1], lags[row, column]])  # lags -511 to 511
            windows = np.lib.stride_tricks.sliding_window_view(values, TAPS)  # (512, 512)
            place = (slice(row * TAPS, (row + 1) * TAPS), slice(column * TAPS, (column + 1) * TAPS))
            gram[place] = windows[:, ::-1]
    return gram


def _solve(gram: Float64, right: Float64) -> Float64:
    """Solve for filters by Cholesky; ``gram`` (Fortran order, lower triangle) is overwritten."""
    gram.flat[:: len(gram) + 1] += np.finfo(float).eps  # as museval
    size = float(np.diagonal(gram).sum())  # the trace bounds the 2-norm, near enough
    try:
        factor = linalg.cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
    except linalg.LinAlgError as error:
        raise IllConditioned("the references depend on each other") from error
    rcond, _ = lapack.dpocon(factor, size, uplo="L")
    if rcond < _LEAST_RCOND:
        raise IllConditioned("the references nearly depend on each other")
    solved: Float64 = linalg.cho_solve((factor, True), right, check_finite=False)
    return solved


def _project(spectra: Spectra, every: Spectra, own: Spectra) -> tuple[Spectra, Spectra]:
    """Filter the references' spectra (K, F) by all filters (M, F), and by those of each source's own (S, C, F)."""
    sources, channels = own.shape[:2]
    of_all = spectra[0] * every[0]  # (M, F)
    for row in range(1, len(spectra)):
        of_all += spectra[row] * every[row]
    by_source = spectra.reshape(sources, channels, 1, -1)
    return of_all, (by_source * own).sum(1)


def _score_windows(est: FloatWaves, ref: FloatWaves, every: Float64, own: Float64, rate_hz: int) -> dict[str, Float64]:
    sources, samples, channels = ref.shape
    length = fft.next_fast_len(rate_hz + TAPS - 1, real=True)
    every_f, own_f = fft.rfft(every, length), fft.rfft(own, length)
    weights = np.full(length // 2 + 1, 2.0)  # a bin stands for itself and its conjugate
    weights[0] = 1
    if length % 2 == 0:
        weights[-1] = 1
    scores = np.full((4, sources, samples // rate_hz), np.nan)

    def energy(spectra: Spectra) -> Float64:
        power: Float64 = ((spectra.real**2 + spectra.imag**2) @ weights).sum(-1)
        return power

    for window in range(samples // rate_hz):
        part = slice(window * rate_hz, (window + 1) * rate_hz)
        if any((wave[:, part].sum(-1) == 0).all(-1).any() for wave in (ref, est)):
            continue
        true = fft.rfft(_rows(ref, part.start, part.stop), length)  # (K, F)
        found = fft.rfft(_rows(est, part.start, part.stop), length).reshape(len(est), channels, -1)
        of_all, of_own = _project(true, every_f, own_f)
        of_all, true = of_all.reshape(found.shape), true.reshape(sources, channels, -1)
        scores[:, :, window] = _ratios(
            sources,
            (energy(true), energy(found - true)),
            (energy(true), energy(of_own - true)),
            (energy(of_own), energy(of_all - of_own)),
            (energy(of_all), energy(found - of_all)),
        )
    return dict(zip(("sdr", "isr", "sir", "sar"), scores, strict=True))


def _score_whole(est: FloatWaves, ref: FloatWaves, every: Float64, own: Float64) -> dict[str, Float64]:
    """Score v3: overlap-save in blocks, energies summed over samples."""
    sources, samples, channels = ref.shape
    total = samples + TAPS - 1  # what the filters ring on counts too
    length = min(_BLOCK, fft.next_fast_len(total + TAPS - 1, real=True))
    every_f, own_f = fft.rfft(every, length), fft.rfft(own, length)
    step = length - (TAPS - 1)
    energies = np.zeros((5, sources))
    for start in range(0, total, step):
        true = fft.rfft(_rows(ref, start - (TAPS - 1), start + step))  # (K, F)
        found = _rows(est, start, start + step).reshape(len(est), channels, step)
        filtered = [fft.irfft(one, length)[..., TAPS - 1 :] for one in _project(true, every_f, own_f)]
        of_all, of_own = filtered[0].reshape(found.shape), filtered[1]
        parts = (of_own, found - of_own, of_all - of_own, of_all, found - of_all)
        energies += [np.broadcast_to(np.square(part).sum((-2, -1)), sources) for part in parts]
    own_energy, rest, interference, all_energy, artefacts = energies
    scores = _ratios(sources, (own_energy, rest), (own_energy, interference), (all_energy, artefacts))
    return dict(zip(("sdr", "sir", "sar"), scores, strict=True))


def _ratios(sources: int, *pairs: tuple[Float64, Float64]) -> list[Float64]:
    """Return ratios of energies in dB, each (S,): one estimate of all sources has some energies once."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return [np.broadcast_to(10 * np.log10(above / below), sources) for above, below in pairs]
