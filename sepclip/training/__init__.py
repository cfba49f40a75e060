"""The training loop, its state, and the folder of a run. Imports ``audio``, ``mixing``, ``model`` and ``clip``."""
