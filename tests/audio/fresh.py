"""A separate interpreter, in which an import can be broken, replaced or removed without affecting other tests."""

import os
import subprocess
import sys
from pathlib import Path

_FINDER = """
import sys
from importlib.machinery import PathFinder
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {name!r}:
            {answer}
        return PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""


def not_installed(name: str) -> str:
    """Return code that makes the package ``name`` impossible to find."""
    return _FINDER.format(name=name, answer="return None")


def broken(name: str, error: str) -> str:
    """Return code that makes importing the module ``name`` raise ``error``."""
    return _FINDER.format(name=name, answer=f"raise {error}('broken on purpose')")


def python(code: str, *, first: Path | None = None, **environment: str) -> str:
    """Run ``code``, with the folder ``first`` at the start of its path, and return what it prints."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    if first:
        variables["PYTHONPATH"] = str(first)
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
