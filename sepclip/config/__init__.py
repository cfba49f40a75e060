"""The configuration: its keys, the values that they allow, and how it is read from files and flags."""
