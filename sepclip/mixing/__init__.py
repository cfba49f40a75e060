"""From a corpus to mixtures: recipes, rendered audio, and batches for training. Knows ``audio``."""
