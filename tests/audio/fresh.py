"""A fresh interpreter, in which an import can be broken, replaced or taken away without harm to other tests."""

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
    """Return code after which the package ``name`` is nowhere to be found."""
    return _FINDER.format(name=name, answer="return None")


def broken(name: str, error: str) -> str:
    """Return code after which importing the module ``name`` raises ``error``."""
    return _FINDER.format(name=name, answer=f"raise {error}('broken on purpose')")


def python(code: str, *, first: Path | None = None, **environment: str) -> str:
    """Run ``code``, with the packages in ``first`` before all others; return what it printed."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    if first:
        variables["PYTHONPATH"] = str(first)
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
