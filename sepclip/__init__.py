"""sepclip: from a folder of voices to a trained, scored, listenable separator, with AutoClip."""

__version__ = "0.1.0"
