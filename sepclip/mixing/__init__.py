"""Read mixture sets, and make training batches from them.

Reading a set: ``recipe`` (what a mixture consists of), ``render`` and ``rooms`` (from a recipe to samples),
``mixture_set`` (the folder with its recipes and audio). Making batches: ``batches`` (start here), ``dynamic_voices``
and ``utterances`` (new mixtures at every step), ``cache`` (waves in memory). ``levels`` and ``chance`` serve both.
"""
