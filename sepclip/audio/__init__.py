"""Waves, spectrograms, masks and scores. Imports nothing else from sepclip but its errors."""
