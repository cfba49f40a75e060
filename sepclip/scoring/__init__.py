"""Scores of separated files: which scores there are, one file, and many files on all cores.

Start at ``score_file.py``, which leads to every score of a file: ``pairing.py`` pairs estimates with references,
``ratios.py`` computes SI-SDR, SNR and their relatives, ``engines.py`` runs BSSEval (``museval_adapter.py`` or
``bsseval.py``), ``oracles.py`` separates by ideal masks, and ``perceptual.py`` calls PESQ and ESTOI. ``table.py``
defines the scores, ``items.py`` what is scored and how, and ``score_many.py`` runs all of it on many files.
"""
