"""The configuration: its keys and what each may be, and where it comes from."""
