"""BSSEval v4 and v3 as museval defines them (Vincent et al. 2006, Stöter et al. 2018), with less work and in blocks.

This is the fast engine; ``engines.py`` calls :func:`decompose`. Each estimate is projected onto all signals that
512-tap filters can produce from its own reference (all channels), and onto those from all references. The filters are
the least-squares solution over the whole file. Whatever differs from museval changes rounding only:

- correlations are summed over blocks, so that memory does not grow with the length (:func:`_correlations`);
- one Cholesky factorisation of the Gram matrix serves all estimates (:func:`_filters`);
- energies of windows are computed from the spectra, by Parseval's theorem (:func:`_score_windows`).

With K = S C reference channels and M channels of estimates, the Gram matrix has (512 K)^2 entries, which is the largest
array, and its factorisation is most of the work.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, linalg
from scipy.linalg import lapack

from sepclip.audio.arrays import Float64, FloatWaves
from sepclip.scoring.museval_adapter import Unscorable

Spectra = NDArray[np.complex128]
TAPS = 512  # length of the filters, as in every BSSEval
_BLOCK = 2**15  # samples of a transform of a longer file: small enough for the cache
# Below this reciprocal condition number rounding decides the sixth digit of scores (docs/METHOD.md)
_LEAST_RCOND = 1e-12


class IllConditioned(Unscorable):
    """The references depend on each other, so that rounding decides the filters."""


@dataclass(frozen=True)
class BSSEvalScores:
    """Scores in dB by name: ``frames`` (S, windows) of v4, ``whole`` (S,) of v3; each empty if not requested."""

    frames: dict[str, Float64]
    whole: dict[str, Float64]


def decompose(
    *, est: FloatWaves, ref: FloatWaves, rate_hz: int, frames: bool = True, whole: bool = True
) -> BSSEvalScores:
    """Score ``est`` (S, T, C), or one estimate (1, T, C) of all sources such as the mixture, against ``ref`` (S, T, C).

    ``frames``: SDR, ISR, SIR and SAR of v4 in windows of 1 s without overlap; NaN if a source or estimate is silent
    (if its channels sum to zero, as in museval). ``whole``: SDR, SIR and SAR of v3 ("sources") over the file.
    Nothing is permuted. Raises IllConditioned if the references do not determine the filters.
    """
    # both versions use the same filters of the whole file; computing them is most of the work
    all_filters, own_filters = _filters(est, ref)
    return BSSEvalScores(
        _score_windows(est, ref, all_filters, own_filters, rate_hz) if frames else {},
        _score_whole(est, ref, all_filters, own_filters) if whole else {},
    )


def _rows(waves: FloatWaves, start: int, stop: int) -> Float64:
    """Return samples ``start`` to ``stop`` of (S, T, C) as rows (S C, stop - start), with zeros beyond both ends."""
    sources, samples, channels = waves.shape
    rows = np.zeros((sources * channels, stop - start))
    inside = slice(max(start, 0), min(stop, samples))
    if inside.start < inside.stop:
        part = waves[:, inside].transpose(0, 2, 1).reshape(len(rows), -1)
        rows[:, inside.start - start : inside.stop - start] = part
    return rows


def _correlations(est: FloatWaves, ref: FloatWaves) -> Float64:
    """Return (K, K + M, 512): sum over t of r[k, t] z[m, t + lag], for the channels r of ``ref`` and z of both."""
    samples, (k, m) = ref.shape[1], (ref.shape[0] * ref.shape[2], est.shape[0] * est.shape[2])
    length = min(_BLOCK, fft.next_fast_len(samples + TAPS - 1, real=True))
    step = length - (TAPS - 1)
    spectra = np.zeros((k, k + m, length // 2 + 1), np.complex128)
    # each block correlates ``step`` samples with those and the 511 after them; the sum over blocks is exact, and one
    # inverse transform at the end serves all blocks
    for start in range(0, samples, step):
        later = np.concatenate([_rows(wave, start, start + length) for wave in (ref, est)])  # (K + M, length)
        here = np.conj(fft.rfft(later[:k, :step], length))  # (K, F)
        later = fft.rfft(later)  # (K + M, F)
        for row in range(k):  # a row at a time: all of them at once would be an array K times as large
            spectra[row] += here[row] * later
    return np.ascontiguousarray(fft.irfft(spectra, length)[..., :TAPS])


def _filters(est: FloatWaves, ref: FloatWaves) -> tuple[Float64, Float64]:
    """Return the filters from all channels of all references (K, M, 512), and from each source's own (S, C, C, 512).

    The second are for the estimate of the same index, or for the only estimate.
    """
    sources, _, channels = ref.shape
    lags = _correlations(est, ref)
    k = sources * channels
    gram = _gram(lags[:, :k])
    cross = lags[:, k:].transpose(0, 2, 1)  # (K, 512, M)
    own_filters = np.empty((sources, channels, channels, TAPS))
    # the Gram matrix of one source is a diagonal block of the whole one; copied, because _solve overwrites it
    for source in range(sources):
        size, first = channels * TAPS, source * channels
        block = gram[source * size : (source + 1) * size, source * size : (source + 1) * size].copy(order="F")
        column = first if len(est) > 1 else 0
        right = cross[first : first + channels, :, column : column + channels].reshape(size, channels)
        own_filters[source] = _solve(block, right).reshape(channels, TAPS, channels).transpose(0, 2, 1)
    # last, because it overwrites the whole matrix
    all_filters = _solve(gram, cross.reshape(k * TAPS, -1)).reshape(k, TAPS, -1).transpose(0, 2, 1)
    return np.ascontiguousarray(all_filters), own_filters


def _gram(lags: Float64) -> Float64:
    """Return the Gram matrix (K 512, K 512) of all delays of all channels; only its lower blocks are filled."""
    k = len(lags)
    gram = np.zeros((k * TAPS, k * TAPS), order="F")
    for row in range(k):
        for column in range(row + 1):
            # a Toeplitz block: entry (i, j) is the correlation at lag i - j, so a sliding window fills it
            values = np.concatenate([lags[column, row, :0:-1], lags[row, column]])  # lags -511 to 511
            windows = np.lib.stride_tricks.sliding_window_view(values, TAPS)  # (512, 512)
            place = (slice(row * TAPS, (row + 1) * TAPS), slice(column * TAPS, (column + 1) * TAPS))
            gram[place] = windows[:, ::-1]
    return gram


def _solve(gram: Float64, right: Float64) -> Float64:
    """Solve for the filters by Cholesky; ``gram`` (Fortran order, lower triangle) is overwritten.

    Raises IllConditioned, so that the caller can leave such references to museval.
    """
    gram.flat[:: len(gram) + 1] += np.finfo(float).eps  # as museval does
    norm = float(np.diagonal(gram).sum())  # the trace bounds the 2-norm, which is near enough
    try:
        factor = linalg.cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
    except linalg.LinAlgError as error:
        raise IllConditioned("the references depend on each other") from error
    rcond, _ = lapack.dpocon(factor, norm, uplo="L")
    if rcond < _LEAST_RCOND:
        raise IllConditioned("the references nearly depend on each other")
    solution: Float64 = linalg.cho_solve((factor, True), right, check_finite=False)
    return solution


def _project(spectra: Spectra, all_filters: Spectra, own_filters: Spectra) -> tuple[Spectra, Spectra]:
    """Filter the references' spectra (K, F) by all filters: (M, F), and by each source's own: (S, C, F)."""
    sources, channels = own_filters.shape[:2]
    on_all = spectra[0] * all_filters[0]  # (M, F)
    for row in range(1, len(spectra)):
        on_all += spectra[row] * all_filters[row]
    by_source = spectra.reshape(sources, channels, 1, -1)
    return on_all, (by_source * own_filters).sum(1)


def _score_windows(
    est: FloatWaves, ref: FloatWaves, all_filters: Float64, own_filters: Float64, rate_hz: int
) -> dict[str, Float64]:
    """Score v4: the filters of the whole file, applied to each window of 1 s on its own."""
    sources, samples, channels = ref.shape
    length = fft.next_fast_len(rate_hz + TAPS - 1, real=True)
    all_spectra, own_spectra = fft.rfft(all_filters, length), fft.rfft(own_filters, length)
    # Parseval: each bin of a real signal's spectrum counts twice, except 0 Hz and half the rate
    weights = np.full(length // 2 + 1, 2.0)
    weights[0] = 1
    if length % 2 == 0:
        weights[-1] = 1
    scores = np.full((4, sources, samples // rate_hz), np.nan)

    def energy(spectra: Spectra) -> Float64:
        power: Float64 = ((spectra.real**2 + spectra.imag**2) @ weights).sum(-1)
        return power

    for window in range(samples // rate_hz):
        # one silent source or estimate leaves the whole window out, as in museval
        part = slice(window * rate_hz, (window + 1) * rate_hz)
        if any((wave[:, part].sum(-1) == 0).all(-1).any() for wave in (ref, est)):
            continue
        # project the window's estimates; everything stays in the frequency domain
        ref_spectra = fft.rfft(_rows(ref, part.start, part.stop), length)  # (K, F)
        estimate = fft.rfft(_rows(est, part.start, part.stop), length).reshape(len(est), channels, -1)
        on_all, on_own = _project(ref_spectra, all_spectra, own_spectra)
        on_all, true = on_all.reshape(estimate.shape), ref_spectra.reshape(sources, channels, -1)
        # the ratios for images, as museval defines them: SDR, ISR, SIR, SAR
        scores[:, :, window] = _ratios(
            sources,
            (energy(true), energy(estimate - true)),
            (energy(true), energy(on_own - true)),
            (energy(on_own), energy(on_all - on_own)),
            (energy(on_all), energy(estimate - on_all)),
        )
    return dict(zip(("sdr", "isr", "sir", "sar"), scores, strict=True))


def _score_whole(est: FloatWaves, ref: FloatWaves, all_filters: Float64, own_filters: Float64) -> dict[str, Float64]:
    """Score v3: filter by overlap-save in blocks, and sum energies over the samples of the whole file."""
    sources, samples, channels = ref.shape
    total = samples + TAPS - 1  # the filters' decay after the end counts too
    length = min(_BLOCK, fft.next_fast_len(total + TAPS - 1, real=True))
    all_spectra, own_spectra = fft.rfft(all_filters, length), fft.rfft(own_filters, length)
    step = length - (TAPS - 1)
    energies = np.zeros((5, sources))
    for start in range(0, total, step):
        # the 511 samples before a block are only there for the filters, and are dropped after the inverse transform
        ref_spectra = fft.rfft(_rows(ref, start - (TAPS - 1), start + step))  # (K, F)
        estimate = _rows(est, start, start + step).reshape(len(est), channels, step)
        projections = _project(ref_spectra, all_spectra, own_spectra)
        on_all, on_own = (fft.irfft(spectra, length)[..., TAPS - 1 :] for spectra in projections)
        on_all = on_all.reshape(estimate.shape)
        parts = (on_own, estimate - on_own, on_all - on_own, on_all, estimate - on_all)
        energies += [np.broadcast_to(np.square(part).sum((-2, -1)), sources) for part in parts]
    # the target is the projection onto the own reference, so that a 512-tap filter of it costs nothing
    target, error, interference, all_energy, artefacts = energies
    scores = _ratios(sources, (target, error), (target, interference), (all_energy, artefacts))
    return dict(zip(("sdr", "sir", "sar"), scores, strict=True))


def _ratios(sources: int, *pairs: tuple[Float64, Float64]) -> list[Float64]:
    """Return ratios of energies in dB, each (S,); one estimate for all sources has some energies only once."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return [np.broadcast_to(10 * np.log10(above / below), sources) for above, below in pairs]
