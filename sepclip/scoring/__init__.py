"""Scores of separated files: what is scored, one file, and many of them on all cores."""
