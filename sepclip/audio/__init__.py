"""Waves, spectrograms, masks and scores. Knows nothing of the rest of sepclip but its errors."""
