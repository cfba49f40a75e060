"""Networks, losses, and the models and separators built from them. Imports only ``audio`` and ``errors``."""
