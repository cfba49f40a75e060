"""Scores without filters: SI-SDR, SI-SIR, SI-SAR, SNR and SD-SDR.

Source: Le Roux et al. 2019, "SDR - half-baked or well done?". Each score is a ratio of two energies, each of a weighted
sum of the signals. So two passes over the samples suffice: inner products of all signals, from which the weights
follow, then the energies of the sums. Both work in blocks, so memory does not grow with the length.
:mod:`sepclip.audio.si_sdr` computes the same SI-SDR for training.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from sepclip.audio.arrays import Float64, FloatWaves

_BLOCK = 2**16  # samples at a time
_PERFECT = 1e-25  # of the target's energy: an error below it is rounding


class Ratios:
    """The scores of estimates ``est`` (E, T, C) against references ``ref`` (S, T, C) of one file.

    The channels of a signal are taken as one long signal. Scores that remove the mean are NaN for a constant signal.
    """

    def __init__(self, *, est: FloatWaves | Sequence[FloatWaves], ref: FloatWaves):
        self._signals = [*ref, *est]  # each (T, C)
        self._refs, self._count = len(ref), ref[0].size
        # first pass: means, and which signals are constant
        self._means = np.zeros(len(self._signals))
        low, high = np.full(len(self._signals), np.inf), np.full(len(self._signals), -np.inf)
        for block in self._blocks():
            self._means += block.sum(1) / self._count
            low, high = np.minimum(low, block.min(1)), np.maximum(high, block.max(1))
        self._constant = low == high
        # second pass: inner products of the signals without their means
        gram = np.zeros((len(self._signals),) * 2)
        for block in self._blocks():
            block -= self._means[:, None]
            gram += block @ block.T
        gram[self._constant] = gram[:, self._constant] = 0  # without its mean, only rounding is left of a constant
        self._gram = gram  # of the centred signals
        self._plain = gram + self._count * np.outer(self._means, self._means)

    def _blocks(self) -> Iterator[Float64]:
        """Yield all signals (refs, then estimates) block by block, as float64 (N, samples)."""
        samples, channels = self._signals[0].shape
        step = max(1, _BLOCK // channels)
        for start in range(0, samples, step):
            yield np.stack([wave[start : start + step].astype(np.float64).ravel() for wave in self._signals])

    def _energies(self, weights: Sequence[Float64], *, centred: bool) -> Float64:
        """Return the energies of weighted sums (rows of N weights) of the signals.

        The sums are formed from the samples, because the inner products would cancel in the energy of a small error.
        """
        rows = np.stack(weights)
        total = np.zeros(len(rows))
        offset = rows @ self._means if centred else np.zeros(len(rows))
        for block in self._blocks():
            total += np.square(rows @ block - offset[:, None]).sum(1)
        return total

    def _unit(self, index: int) -> Float64:
        """Return the weights that select one signal."""
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

        ``names`` are any of ``snr``, ``sd_sdr``, ``si_sdr``, ``si_sir`` and ``si_sar``. ``snr`` and ``sd_sdr`` use the
        signals as they are, the others without their means. A silent (without the mean: a constant) reference or
        estimate gives NaN, a perfect score inf.
        """
        result = {}
        for name in names:
            # one pass over the samples per score: the energies of all numerators and denominators
            centred = name.startswith("si_")
            numerators, denominators = zip(*(self._parts(name, self._refs + e, r) for e, r in pairs), strict=True)
            energies = self._energies([*numerators, *denominators], centred=centred)
            above, below = energies[: len(pairs)], energies[len(pairs) :]
            with np.errstate(divide="ignore", invalid="ignore"):
                scores = 10 * np.log10(above / np.where(below < above * _PERFECT, 0, below))
            silent = self._constant if centred else np.diagonal(self._plain) == 0
            scores[[bool(silent[r] or silent[self._refs + e]) for e, r in pairs]] = np.nan
            result[name] = scores
        return result

    def _parts(self, name: str, est: int, ref: int) -> tuple[Float64, Float64]:
        """Return the weights of the two sums whose energies ``name`` relates (equations of Le Roux et al. 2019)."""
        estimate, truth = self._unit(est), self._unit(ref)
        if name == "snr":
            return truth, truth - estimate
        # the target is the projection onto the reference; SD-SDR compares it with the difference to the reference, so
        # that gain counts, SI-SDR with the rest of the estimate
        if name == "sd_sdr":
            energy = self._plain[ref, ref]
            return truth * (self._plain[est, ref] / energy if energy else 0), truth - estimate
        energy = self._gram[ref, ref]
        target = truth * (self._gram[est, ref] / energy if energy else 0)
        if name == "si_sdr":
            return target, estimate - target
        refs = slice(self._refs)
        scale = np.sqrt(np.diagonal(self._gram)[refs]) + (np.diagonal(self._gram)[refs] == 0)
        # SI-SIR and SI-SAR split the error by the projection onto all references. They are scaled to the same level,
        # so that a quiet one counts, and the pseudo-inverse allows for one that repeats another
        inverse = np.linalg.pinv(self._gram[refs, refs] / np.outer(scale, scale), hermitian=True, rcond=1e-10)
        projection = np.zeros(len(self._signals))
        projection[refs] = inverse @ (self._gram[refs, est] / scale) / scale
        return target, projection - target if name == "si_sir" else estimate - projection
