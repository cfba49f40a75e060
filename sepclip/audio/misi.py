"""Phase refinement of separated waves: multiple input spectrogram inversion."""

from torch import Tensor

from sepclip.audio.stft import STFT


def refine_phases(waves: Tensor, magnitudes: Tensor, mixture: Tensor, stft: STFT, iterations: int) -> Tensor:
    """Return ``waves`` (S, C, T) after ``iterations`` of MISI towards ``magnitudes`` (S, C, N, F).

    Each iteration shares what the waves lack of the ``mixture`` (C, T) evenly among them, and puts the phases that
    result on the magnitudes, which stay as they are (Gunawan and Sen 2010; Wang, Le Roux, Wang and Hershey 2018,
    algorithm 1). The result need not add up to the mixture. 0 iterations leave the waves alone.
    """
    samples = mixture.shape[-1]
    for _ in range(iterations):
        lacking = (mixture - waves.sum(0)) / len(waves)  # (C, T)
        spectra = stft.forward(waves + lacking)  # (S, C, N, F)
        waves = stft.inverse(magnitudes * spectra.sgn(), samples)
    return waves
