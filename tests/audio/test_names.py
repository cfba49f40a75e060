import unicodedata

import pytest

from sepclip.audio.names import existing_path, normal_name, split_names

JOHN, JANE = "Smith, John", "Doe, Jane"


def nfd(text):
    return unicodedata.normalize("NFD", text)


def test_a_name_is_the_same_in_both_spellings_of_unicode():
    assert normal_name(nfd("José")) == normal_name("José") == "José"
    assert nfd("José") != "José"


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["a,b"], ["a", "b"]),
        ([" b , a ", ""], ["b", "a"]),
        ([JOHN, JANE], [JOHN, JANE]),
        (["Smith, John,Doe, Jane"], [JOHN, JANE]),
        (["a,Smith,John"], ["a", JOHN]),
        (["Smith,a"], ["Smith", "a"]),
        ([nfd("José,a")], ["José", "a"]),
        (["a,a"], ["a", "a"]),
    ],
)
def test_names_with_commas_are_found_among_the_known_ones(texts, names):
    assert split_names(texts, [JOHN, JANE, "a", "b", nfd("José")]) == names


def test_a_path_is_found_in_the_spelling_of_the_disk(tmp_path):
    (tmp_path / nfd("José.wav")).touch()
    assert existing_path(tmp_path, "José.wav").exists()
    assert existing_path(tmp_path, "other.wav") == tmp_path / "other.wav"
