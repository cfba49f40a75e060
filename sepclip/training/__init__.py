"""The training loop, its state, and the folder of a run. Knows ``audio``, ``mixing``, ``model`` and ``clip``."""
