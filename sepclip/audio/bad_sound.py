"""The error for a sound file that cannot be used."""

from pathlib import Path

from sepclip.errors import UserError

NOT_SOUND = "not readable as sound (damaged, or not a sound file)"


class BadSound(UserError):
    """A sound file that cannot be used; ``reason`` says why in a few words."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type["BadSound"], tuple[Path, str]]:
        """Pickle it with its own arguments: the default would call ``__init__`` with the message."""
        return type(self), (self.path, self.reason)
