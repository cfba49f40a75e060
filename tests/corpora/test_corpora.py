"""What every corpus has to keep."""

import inspect
import json
import typing
from dataclasses import asdict

import pytest

from sepclip.corpora import command, corpora
from sepclip.corpora.preflight import Preflight
from sepclip.errors import UserError
from tests.conftest import sepclip
from tests.mixing.conftest import prepare, tree

SHARED = {"out": command.Out, "check": command.Check, "jobs": command.Jobs, "as_json": command.Json}


@pytest.mark.parametrize("name", corpora())
def test_every_corpus_has_a_whole_card_and_the_shared_options(name):
    corpus = corpora()[name]
    assert all(asdict(corpus.card).values())
    parameters = inspect.signature(corpus.prepare).parameters
    assert list(parameters)[:2] == ["root", "out"]
    for option, kind in SHARED.items():
        assert parameters[option].annotation == kind
    for parameter in parameters.values():
        assert typing.get_args(parameter.annotation)[1].help


@pytest.mark.parametrize("name", corpora())
def test_every_corpus_tells_of_a_root_that_is_not_there(name, tmp_path):
    for more in ((), ("--check",)):
        told = sepclip("prepare", name, tmp_path / "nowhere", tmp_path / "out", *more)
        assert told.returncode == 1
        assert "nowhere: no such folder" in told.stdout + told.stderr
        assert "Traceback" not in told.stderr
    assert not (tmp_path / "out").exists()


def test_cards_are_shown_by_list_and_by_help():
    listed = sepclip("prepare", "--list", COLUMNS="400")
    assert listed.returncode == 0
    for name, corpus in corpora().items():
        words = sepclip("prepare", name, "--help", COLUMNS="400").stdout.split()
        for text in asdict(corpus.card).values():
            assert text in listed.stdout or len(text) > 60
            assert "".join(text.split()) in "".join(words) or text == name  # lines also end at a hyphen


def test_check_writes_nothing_and_jobs_change_nothing(corpus, tmp_path, capsys):
    out = tmp_path / "out"
    prepare_only = ("prepare", "speakers", corpus, out, "--tr", 6, "--cv", 3, "--tt", 2)
    checked = sepclip(*prepare_only, "--check")
    assert checked.returncode == 0
    assert checked.stdout.splitlines()[0] == "tr: 6 mixtures"
    assert "no problems found" in checked.stdout
    assert json.loads(sepclip(*prepare_only, "--check", "--json").stdout)["fine"]
    assert not out.exists()
    trees = [tree(prepare(corpus, tmp_path / f"jobs{jobs}", jobs=jobs).path) for jobs in (1, 3)]
    assert trees[0] == trees[1]


def test_recipes_changed_behind_its_back_are_noticed(corpus, tmp_path):
    made = prepare(corpus, tmp_path / "out")
    (made.path / "tt.jsonl").write_text("")
    with pytest.raises(UserError, match="were changed after it was written"):
        prepare(corpus, tmp_path / "out")


def test_findings_are_grouped_named_once_and_cut_short_only_in_errors(tmp_path):
    preflight = Preflight(tmp_path / "a" / "b")
    for index in (2, 1, 2, 4, 3, 1, 5):
        preflight.add_problem("missing", "get it", "folder", f"{index}.wav")
    preflight.add_problem("missing", "get it", "another", "1.wav")
    preflight.add_problem("broken", "mend it", "folder", "1.wav")
    assert preflight.lines() == [
        "missing (6): get it",
        "  another (1): 1.wav",
        "  folder (5): 1.wav, 2.wav, 3.wav, 4.wav, 5.wav",
        "broken (1): mend it",
        "  folder (1): 1.wav",
    ]
    with pytest.raises(UserError, match=r"1.wav, 2.wav, 3.wav, ... and 2 more\n(.*\n)*--check lists all"):
        preflight.require()
    assert not preflight.is_ready
    assert preflight.document()["problems"][1] == {"what": "broken", "todo": "mend it", "files": {"folder": ["1.wav"]}}
    too_much = Preflight(tmp_path, needed_bytes=10**18)
    with pytest.raises(UserError, match=r"GB free and the mixtures need 1000000000\.00 GB: make room"):
        too_much.require()
    Preflight(tmp_path).require()
