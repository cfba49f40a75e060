"""The command line, as ``python -m sepclip``."""

from sepclip.cli import main

main()
