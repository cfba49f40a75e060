"""Mixtures from any folder with one sub-folder a voice."""
