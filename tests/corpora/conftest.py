"""The corpus of real voices and the set made of it, shared with the tests of mixing."""

from tests.mixing.conftest import corpus as corpus
from tests.mixing.conftest import mixtures as mixtures
