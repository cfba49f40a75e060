"""Phase refinement of separated waves: multiple input spectrogram inversion."""

from torch import Tensor

from sepclip.audio.stft import STFT


def refine_phases(waves: Tensor, magnitudes: Tensor, mixture: Tensor, stft: STFT, iterations: int) -> Tensor:
    """Return ``waves`` (S, C, T) after some iterations of MISI towards ``magnitudes`` (S, C, N, F).

    Each iteration distributes the residual, the ``mixture`` (C, T) minus the sum of the waves, evenly among them and
    combines the resulting phases with the magnitudes, which never change (Gunawan and Sen 2010; Wang, Le Roux, Wang and
    Hershey 2018, algorithm 1). The result need not add up to the mixture. 0 iterations return the waves unchanged.
    """
    samples = mixture.shape[-1]
    for _ in range(iterations):
        residual = (mixture - waves.sum(0)) / len(waves)  # (C, T)
        spectra = stft.forward(waves + residual)  # (S, C, N, F)
        waves = stft.inverse(magnitudes * spectra.sgn(), samples)  # (S, C, T)
    return waves
