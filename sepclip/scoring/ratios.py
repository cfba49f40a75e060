"""Scores without filters, by Le Roux et al. 2019, "SDR - half-baked or well done?": numpy, in blocks, for any length.

All of them are ratios of the energies of sums of the signals, so two passes suffice: inner products, then energies.
What :mod:`sepclip.audio.si_sdr` has for training gives the same SI-SDR; here memory does not grow with the length.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from sepclip.audio.arrays import Float64, FloatWaves

_BLOCK = 2**16  # samples at a time
_PERFECT = 1e-25  # of the target's energy: what is left below is rounding


class Ratios:
    """The estimates ``est`` (E, T, C) and references ``ref`` (S, T, C) of one file; all channels count alike.

    Where a signal has one value only, scores that remove its mean are NaN.
    """

    def __init__(self, *, est: FloatWaves | Sequence[FloatWaves], ref: FloatWaves):
        self._signals = [*ref, *est]  # each (T, C)
        self._refs, self._count = len(ref), ref[0].size
        self._means = np.zeros(len(self._signals))
        low, high = np.full(len(self._signals), np.inf), np.full(len(self._signals), -np.inf)
        for block in self._blocks():
            self._means += block.sum(1) / self._count
            low, high = np.minimum(low, block.min(1)), np.maximum(high, block.max(1))
        self._constant = low == high
        gram = np.zeros((len(self._signals),) * 2)
        for block in self._blocks():
            block -= self._means[:, None]
            gram += block @ block.T
        gram[self._constant] = gram[:, self._constant] = 0  # nothing but rounding is left without the mean
        self._gram = gram  # of the centred signals
        self._plain = gram + self._count * np.outer(self._means, self._means)

    def _blocks(self) -> Iterator[Float64]:
        """Yield all signals (refs, then estimates) block by block, as float64 (N, samples)."""
        samples, channels = self._signals[0].shape
        step = max(1, _BLOCK // channels)
        for start in range(0, samples, step):
            yield np.stack([wave[start : start + step].astype(np.float64).ravel() for wave in self._signals])

    def _energies(self, weights: Sequence[Float64], *, centred: bool) -> Float64:
        """Return the energies of weighted sums (rows of N weights) of the signals."""
        rows = np.stack(weights)
        total = np.zeros(len(rows))
        offset = rows @ self._means if centred else np.zeros(len(rows))
        for block in self._blocks():
            total += np.square(rows @ block - offset[:, None]).sum(1)
        return total

    def _one(self, index: int) -> Float64:
        weights = np.zeros(len(self._signals))
        weights[index] = 1
        return weights

    def pairwise_si_sdr(self) -> Float64:
        """Return the SI-SDR (E, S) in dB of every estimate against every reference."""
        pairs = [(e, r) for e in range(len(self._signals) - self._refs) for r in range(self._refs)]
        scores = self.score(pairs, ("si_sdr",))["si_sdr"]
        return scores.reshape(-1, self._refs)

    def score(self, pairs: Sequence[tuple[int, int]], names: Sequence[str]) -> dict[str, Float64]:
        """Return scores in dB for pairs of (estimate, reference).

        ``names`` are of ``snr``, ``sd_sdr``, ``si_sdr``, ``si_sir`` and ``si_sar``. ``snr`` and ``sd_sdr``
        take the signals as they are, the others without their means. A silent reference or estimate (for the latter: a
        constant one) gives NaN, a perfect score inf.
        """
        found = {}
        for name in names:
            centred = name.startswith("si_")
            over, under = zip(*(self._parts(name, self._refs + e, r) for e, r in pairs), strict=True)
            energies = self._energies([*over, *under], centred=centred)
            above, below = energies[: len(pairs)], energies[len(pairs) :]
            with np.errstate(divide="ignore", invalid="ignore"):
                scores = 10 * np.log10(above / np.where(below < above * _PERFECT, 0, below))
            silent = self._constant if centred else np.diagonal(self._plain) == 0
            scores[[bool(silent[r] or silent[self._refs + e]) for e, r in pairs]] = np.nan
            found[name] = scores
        return found

    def _parts(self, name: str, est: int, ref: int) -> tuple[Float64, Float64]:
        """Return the weights of the two sums whose energies ``name`` relates."""
        estimate, truth = self._one(est), self._one(ref)
        if name == "snr":
            return truth, truth - estimate
        if name == "sd_sdr":
            energy = self._plain[ref, ref]
            return truth * (self._plain[est, ref] / energy if energy else 0), truth - estimate
        energy = self._gram[ref, ref]
        target = truth * (self._gram[est, ref] / energy if energy else 0)
        if name == "si_sdr":
            return target, estimate - target
        refs = slice(self._refs)
        scale = np.sqrt(np.diagonal(self._gram)[refs]) + (np.diagonal(self._gram)[refs] == 0)
        # on all references at once; levels play no part, and one that repeats another adds nothing
        span = np.linalg.pinv(self._gram[refs, refs] / np.outer(scale, scale), hermitian=True, rcond=1e-10)
        projection = np.zeros(len(self._signals))
        projection[refs] = span @ (self._gram[refs, est] / scale) / scale
        return target, projection - target if name == "si_sir" else estimate - projection
