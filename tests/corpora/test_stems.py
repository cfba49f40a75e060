"""`sepclip prepare stems` and `musdb18`: what is read, what is converted, and what is told."""

import json
import shutil
import unicodedata

import numpy as np
import pytest
import soundfile
import torch

from sepclip.audio.layout import Layout
from sepclip.audio.resample import resample
from sepclip.corpora.stems.command import VALIDATION
from sepclip.errors import UserError
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.terminal import volume
from tests.conftest import assert_told, sepclip
from tests.corpora.tracks import FOUR, TRACKS, make_tracks, musdb18, names, noise, stems, write
from tests.mixing.conftest import every_recipe, tree


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_tracks(tmp_path_factory.mktemp("tracks") / "music")


@pytest.fixture(scope="module")
def made(root, tmp_path_factory):
    return stems(root, tmp_path_factory.mktemp("sets") / "out")


def test_stems_are_read_in_place_in_their_usual_order(root, made):
    assert made.layout == Layout(44100, 4, 2, FOUR, fixed_order=True)
    assert made.in_place
    assert made.additive
    assert not made.audio
    found = names(made)
    assert found["tt"] == ["X - Y", "Z - Ü"]
    assert sorted(found["tr"] + found["cv"]) == list(TRACKS["train"])
    assert len(found["cv"]) == 1
    for split, recipe in every_recipe(made):
        waves = made.waves(split, recipe)  # (1 + S, C, T)
        true = np.stack([noise(recipe.name, stem).T for stem in FOUR])
        assert waves.dtype == np.int16
        assert np.array_equal(waves[1:] / 32768, true)
        assert np.array_equal(waves[0] / 32768, true.sum(0))
        assert [source.voice for source in recipe.sources] == list(FOUR)
    assert {path.name for path in made.path.iterdir()} == {"set.json", "tr.jsonl", "cv.jsonl", "tt.jsonl"}


def test_an_excerpt_is_the_part_of_the_whole(made):
    recipe = made.recipes("tr")[0]
    whole = made.waves("tr", recipe)
    for start, samples in ((0, 10), (4000, 100), (4400, 100), (0, 9999)):
        assert np.array_equal(
            made.waves("tr", recipe, start=start, samples=samples), whole[..., start : start + samples]
        )
        stem = made.source_waves("tr", recipe, 2, start=start, samples=samples)
        assert np.array_equal(stem, whole[3, :, start : start + samples])


def test_the_split_depends_on_the_seed_alone_and_folders_come_first(root, tmp_path):
    again = stems(root, tmp_path / "again")
    assert names(again) == names(stems(root, tmp_path / "more"))
    others = [names(stems(root, tmp_path / f"{seed}", seed=seed))["cv"] for seed in range(1, 6)]
    assert len({*map(tuple, others), tuple(names(again)["cv"])}) > 1
    flat = make_tracks(tmp_path / "flat", {"": ("a", "b", "c", "d", "e")})
    found = names(stems(flat, tmp_path / "five", fractions="0.6,0.2,0.2"))
    assert [len(found[split]) for split in ("tr", "cv", "tt")] == [3, 1, 1]
    valid = make_tracks(tmp_path / "three", {"train": ("a", "b"), "valid": ("c",), "test": ("d",)})
    assert names(stems(valid, tmp_path / "given")) == {"tr": ["a", "b"], "cv": ["c"], "tt": ["d"]}


def test_without_a_mixture_it_is_the_sum_even_beyond_full_scale(tmp_path):
    root = make_tracks(tmp_path / "music", mixture=None)
    loud = noise("loud") * 4.9
    for stem in ("vocals", "drums"):
        write(root / "test" / "X - Y" / f"{stem}.wav", loud)
    made = stems(root, tmp_path / "out")
    waves = made.waves("tt", made.recipes("tt")[0])
    assert waves.dtype == np.float32
    assert np.array_equal(waves[0], waves[1:].sum(0))
    assert np.abs(waves[0]).max() > 40000
    part = made.waves("tt", made.recipes("tt")[0], start=7, samples=100)
    assert np.array_equal(part, waves[..., 7:107])


def test_a_short_stem_ends_in_silence_and_a_long_one_with_its_track(tmp_path):
    root = make_tracks(tmp_path / "music")
    short, long = noise("short", samples=4000), noise("long", samples=5000)
    write(root / "test" / "X - Y" / "drums.wav", short)
    write(root / "test" / "X - Y" / "bass.wav", long)
    made = stems(root, tmp_path / "out")
    recipe = made.recipes("tt")[0]
    waves = made.waves("tt", recipe) / 32768
    assert waves.shape == (5, 2, 4410)
    assert np.array_equal(waves[2, :, :4000], short.T)
    assert not waves[2, :, 4000:].any()
    assert np.array_equal(waves[3], long.T[:, :4410])
    assert np.array_equal(made.waves("tt", recipe, start=3900, samples=300) / 32768, waves[..., 3900:4200])


def test_another_rate_and_mono_are_converted(root, tmp_path):
    made = stems(root, tmp_path / "out", rate=22050, channels=1)
    assert made.layout == Layout(22050, 4, 1, FOUR, fixed_order=True)
    assert made.audio
    for split, recipe in every_recipe(made):
        waves = made.waves(split, recipe) / 32768
        assert waves.shape == (5, 2205)
        for wave, stem in zip(waves[1:], FOUR, strict=True):
            mono = torch.from_numpy(noise(recipe.name, stem).mean(1)).float()
            assert np.abs(wave - resample(mono, 44100, 22050).numpy()).max() < 1 / 32768
    file = made.path / "tr" / "vocals" / f"{made.recipes('tr')[0].name}.wav"
    assert soundfile.info(file).samplerate == 22050
    before = tree(made.path)
    file.unlink()
    (made.path / "set.json").rename(made.path / "unfinished.json")  # as a kill would leave it
    assert tree(stems(root, tmp_path / "out", rate=22050, channels=1, jobs=3).path) == before


def test_mono_files_among_stereo_ones_become_stereo(tmp_path):
    root = make_tracks(tmp_path / "music", mixture=None)
    mono = noise("mono", channels=1)
    write(root / "test" / "X - Y" / "bass.wav", mono)
    loud = noise("loud") * 4.9
    write(root / "test" / "X - Y" / "drums.wav", loud)
    made = stems(root, tmp_path / "out")
    assert made.audio
    waves = made.waves("tt", made.recipes("tt")[0])
    assert waves.shape == (5, 2, 4410)
    assert np.array_equal(waves[3, 0], waves[3, 1])
    gain = waves[3, 0] @ mono[:, 0] / (mono[:, 0] @ mono[:, 0]) / 32768
    assert np.abs(waves[3, 0] - gain * 32768 * mono[:, 0]).max() <= 1  # one gain for all, of what was too loud
    assert np.abs(waves[0].astype(int) - waves[1:].sum(0, dtype=int)).max() <= 3
    assert np.abs(waves[0].astype(int)).max() >= 32766


def test_a_mixture_that_is_not_the_sum_is_told(tmp_path, capsys):
    root = make_tracks(tmp_path / "music")
    write(root / "test" / "X - Y" / "mixture.wav", noise("X - Y", "vocals") * [1, 0.5])
    made = stems(root, tmp_path / "out")
    assert made.about["not_the_sum"] == ["X - Y"]
    assert made.additive  # mixed anew it is
    assert "1 mixture not the sum of its stems" in capsys.readouterr().err
    assert stems(root, tmp_path / "converted", channels=1).about["not_the_sum"] == ["X - Y"]


def test_some_stems_of_a_mixture_are_chosen(root, tmp_path):
    made = stems(root, tmp_path / "out", stems="Drums, vocals")
    assert made.layout.names == ("drums", "vocals")
    assert not made.additive  # the mixture holds the others too
    without = stems(make_tracks(tmp_path / "sums", mixture=None), tmp_path / "sum", stems="drums,vocals")
    assert without.additive


def test_stems_are_the_same_in_any_spelling_and_may_contain_commas(tmp_path):
    for track, form in (("a", "NFC"), ("b", "NFD"), ("c", "NFC")):
        names = [unicodedata.normalize(form, name) for name in ("batería", "gtr, lead", "voz")]
        make_tracks(tmp_path / "music", {"": (track,)}, stems=names, mixture=None)
    assert stems(tmp_path / "music", tmp_path / "all").layout.names == ("batería", "gtr, lead", "voz")
    chosen = unicodedata.normalize("NFD", "gtr,lead,Batería")
    assert stems(tmp_path / "music", tmp_path / "two", stems=[chosen]).layout.names == ("gtr, lead", "batería")


def test_one_channel_of_stems_whose_channels_cancel_keeps_the_sum(tmp_path, capfd):
    root = make_tracks(tmp_path / "music", {"": ("a", "b", "c")}, stems=("bass", "vocals"), mixture=None)
    for track in "abc":
        wave = noise(track, "bass")[:, 0]
        write(root / track / "bass.wav", np.stack([wave, -wave], 1))
        write(root / track / "mixture.wav", np.stack([wave, -wave], 1) + noise(track, "vocals"))
    made = stems(root, tmp_path / "out", channels=1)
    assert capfd.readouterr().err.count("channels of its files cancel: channel 1 of all is used") == 3
    for split, recipe in every_recipe(made):
        mixture, vocals, bass = made.waves(split, recipe).astype(int)
        assert np.abs(mixture - vocals - bass).max() <= 1
        assert np.abs(bass / 32768 - noise(recipe.name, "bass")[:, 0]).max() < 1e-4


def test_a_stem_that_only_some_tracks_have_is_reported(tmp_path, capsys, monkeypatch):
    root = make_tracks(tmp_path / "music", {"": ("a", "b", "c")}, stems=("bass", "vocals"))
    write(root / "a" / "piano.wav", noise("piano"))
    monkeypatch.setattr(volume, "quiet", True)
    stems(root, tmp_path / "out")
    assert "stems that only some tracks have are left out: piano (1 of 3 tracks)" in capsys.readouterr().err
    with pytest.raises(UserError, match="mix is the name of the whole track"):
        stems(root, tmp_path / "other", stems="bass,mix")


def test_names_are_found_among_the_stems_that_all_tracks_have(tmp_path):
    root = make_tracks(tmp_path / "music", {"": ("a", "b", "c")}, stems=("guitar", "bass", "Vocals"))
    write(root / "a" / "piano.wav", noise("piano"))
    (root / "b" / "._bass.wav").write_bytes(b"mac")
    made = stems(root, tmp_path / "out")
    assert made.layout.names == ("vocals", "bass", "guitar")
    assert not made.additive  # the piano is in one of the mixtures


@pytest.fixture(scope="module")
def hq(tmp_path_factory):
    train = ("A - B", *VALIDATION, "C - D")
    return make_tracks(tmp_path_factory.mktemp("hq") / "musdb18hq", {"train": train, "test": ("E - F",)}, samples=441)


def test_musdb18_has_its_own_validation_tracks(hq, tmp_path):
    made = musdb18(hq, tmp_path / "out")
    assert names(made) == {"tr": ["A - B", "C - D"], "cv": sorted(VALIDATION), "tt": ["E - F"]}
    assert made.layout == Layout(44100, 4, 2, FOUR, fixed_order=True)
    checked = sepclip("prepare", "musdb18", hq, tmp_path / "new", "--check")
    assert checked.returncode == 0, checked.stderr
    assert "tr: 2 tracks (official 86)" in checked.stdout
    assert "read in place" in checked.stdout
    assert not (tmp_path / "new").exists()


def test_all_that_is_wrong_is_told_at_once(hq, tmp_path):
    root = tmp_path / "music"
    shutil.copytree(hq, root)
    shutil.rmtree(root / "train" / VALIDATION[3])
    (root / "train" / "A - B" / "drums.wav").unlink()
    (root / "train" / "A - B" / "bass.wav").write_text("no sound")
    whole = (root / "test" / "E - F" / "other.wav").read_bytes()
    (root / "test" / "E - F" / "other.wav").write_bytes(whole[:-100])
    write(root / "train" / "C - D" / "bass.wav", noise("other rate", samples=441), 48000)
    write(root / "train" / "C - D" / "other.wav", np.zeros((441, 3)))
    write(root / "train" / "C - D" / "Vocals.flac", noise("twice", samples=441))
    write(root / "train" / VALIDATION[0] / "drums.wav", np.zeros((0, 2)))
    told = sepclip("prepare", "musdb18", root, tmp_path / "out", "--check")
    assert told.returncode == 1
    for line in (
        f"validation track missing (1): copy the corpus again: it is incomplete\n  {root} (1): {VALIDATION[3]}",
        "stem missing (1): add it, or remove the folder of its track\n  train/A - B (1): drums",
        "file with no readable sound (1)",
        "truncated file (1)",
        "file without samples (1)",
        "of 48000 Hz",
        "choose one with --rate",
        "file of the same stem as another (1): remove one of them\n  train/C - D (1): vocals.wav",
    ):
        assert line in told.stdout, told.stdout
    assert_told(sepclip("prepare", "stems", root, tmp_path / "out", "--channels", 3), "--channels", code=2)
    assert not (tmp_path / "out").exists()


def test_what_makes_no_set_is_told(root, tmp_path):
    def told(match, where, **options):
        with pytest.raises(UserError, match=match):
            stems(where, tmp_path / "new", **options)

    told("2 tracks cannot be divided into tr, cv, tt", make_tracks(tmp_path / "two", {"": ("a", "b")}))
    told("others, such as c, are not", make_tracks(tmp_path / "some", {"train": ("a", "b"), "": ("c",)}))
    told(r"stem missing \(6\)", root, stems="vocals,harp")
    told("name each once", root, stems="vocals,vocals")
    (tmp_path / "empty").mkdir()
    told("contains no tracks", tmp_path / "empty")
    told("is a file", root / "test" / "X - Y" / "bass.wav")
    apart = make_tracks(make_tracks(tmp_path / "apart", {"": ("a", "b")}), {"": ("c",)}, stems=("left", "right"))
    for track in "ab":
        (apart / track / "mixture.wav").unlink()
    told(r"no stem is in all 3 tracks; there are bass \(2\)", apart)
    with pytest.raises(UserError, match="is inside"):
        stems(root, root / "out")
    three = make_tracks(tmp_path / "three", {"": ("a", "b", "c")}, channels=3)
    told("3 channels, which cannot become 2", three, channels=2)


def test_a_file_that_changed_is_noticed(root, made, tmp_path):
    copy = tmp_path / "music"
    shutil.copytree(root, copy)
    moved = MixtureSet.open(made.path, copy)
    recipe = moved.recipes("tt")[0]
    for wave, rate_hz in ((noise("new", samples=4000), 44100), (noise("new", channels=1), 44100), (noise("new"), 8000)):
        write(copy / "test" / "X - Y" / "drums.wav", wave, rate_hz)
        with pytest.raises(UserError, match="is not 4410 samples of 2 channels at 44100 Hz"):
            moved.waves("tt", recipe)
    with pytest.raises(UserError, match="which is not there: say with --root"):
        MixtureSet.open(made.path, tmp_path / "nowhere").waves("tt", recipe)


@pytest.mark.parametrize("key", ["name", "mix", "path"])
@pytest.mark.parametrize("path", ["/etc/passwd", "../other", "train/../../other"])
def test_a_recipe_cannot_lead_out_of_the_corpus(made, tmp_path, key, path):
    shutil.copytree(made.path, tmp_path / "out")
    file = tmp_path / "out" / "tt.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    (lines[0]["sources"][1] if key == "path" else lines[0])[key] = path
    file.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError, match=f"{path} leads out of the corpus"):
        MixtureSet.open(tmp_path / "out").recipes("tt")


def test_sources_that_are_no_file_names_make_no_set(made, tmp_path):
    shutil.copytree(made.path, tmp_path / "out")
    file = tmp_path / "out" / "set.json"
    file.write_text(file.read_text().replace('"vocals"', '"../vocals"'))
    with pytest.raises(UserError, match="is damaged"):
        MixtureSet.open(tmp_path / "out")
