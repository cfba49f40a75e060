"""The commands, a file each: thin layers over a function of the same meaning, whose heavy imports stay inside."""
