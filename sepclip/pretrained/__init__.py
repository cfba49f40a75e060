"""The separators that ship with sepclip, and the voices that they are chosen and tested by.

Each is a folder with the half-precision weights, the configuration and the environment of its training, and a card.
``pretrained.model_cards`` finds and describes them; ``pretrained.pack`` makes such a folder from a run.
"""
