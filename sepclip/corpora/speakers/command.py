"""Any folder with a sub-folder for each voice."""

from pathlib import Path
from typing import Annotated

import typer

from sepclip.corpora import Card, Corpus
from sepclip.corpora.command import Check, Jobs, Json, Out
from sepclip.mixing.conversation import CORPUS_FROM

CARD = Card(
    name="speakers",
    what="Mixtures from any folder of recordings with one sub-folder for each voice; VCTK, LibriSpeech, DAPS and TIMIT "
    "by --preset.",
    layout="ROOT/VOICE/**/*.{wav,flac,ogg,opus,mp3,aiff,...}; with --speaker-from REGEX the voice may be anywhere in "
    "the path",
    size="at least two voices with a few sentences each; to separate unknown voices well, use dozens of voices",
    licence="that of your recordings",
    source="your own recordings; LibriSpeech (openslr.org/12, CC BY 4.0), VCTK (datashare.ed.ac.uk, CC BY 4.0), DAPS "
    "(zenodo.org, CC BY-NC 4.0), TIMIT (catalog.ldc.upenn.edu/LDC93S1, LDC)",
)


def prepare(
    root: Annotated[Path, typer.Argument(help="Folder with one sub-folder for each voice.", show_default=False)],
    out: Out,
    sources: Annotated[int, typer.Option(help="Voices in a mixture.", min=2, max=3)] = 2,
    tr: Annotated[int, typer.Option(help="Training mixtures.", min=1)] = 1000,
    cv: Annotated[int, typer.Option(help="Validation mixtures.", min=1)] = 100,
    tt: Annotated[int, typer.Option(help="Test mixtures of each group (seen, unseen).", min=1)] = 100,
    split: Annotated[
        str,
        typer.Option(
            help="voices: no voice is in two of tr, cv, tt. within: each voice's recordings are divided, file by file "
            "if there are at least three. auto: voices if there are six for each of --sources and no --unseen, else "
            "within."
        ),
    ] = "auto",
    unseen: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B,...",
            help="Keep these voices out of training, for a test group of their own (as many as --sources or more). "
            "Names may contain commas. It can be repeated: --unseen 'Smith, John' --unseen 'Doe, Jane'",
            show_default=False,
        ),
    ] = None,
    voices: Annotated[
        Path | None,
        typer.Option(
            help="YAML file that says which voices are for validation and testing, such as `cv: [a, b]` and "
            "`tt: [c, d]`; all others train [--split decides].",
            show_default=False,
        ),
    ] = None,
    fractions: Annotated[str, typer.Option(help="Shares of tr,cv,tt.")] = "0.8,0.1,0.1",
    speaker_from: Annotated[
        str | None,
        typer.Option(
            help="Find the voice by this regular expression in a file's path below ROOT: its group named 'speaker', "
            "else its first group, else the whole match. For flat folders: '^[a-z]+\\d+'",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Find the voices and sexes of a known corpus: vctk (the first of two microphones), librispeech, daps "
            "(the clean recordings) or timit. All other files are left out.",
            show_default=False,
        ),
    ] = None,
    overlap: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LOW,HIGH[,WEIGHT]",
            help="Share of the time in which both voices speak, from 0 to 1, such as 0.5,1. Repeat it for several "
            "ranges with weights: --overlap 0.5,1,60 --overlap 0,0.5,25 [the mixtures overlap from their beginning].",
            show_default=False,
        ),
    ] = None,
    single: Annotated[
        float, typer.Option(help="Share of the mixtures with one voice only; their other sources are silent.")
    ] = 0.0,
    same_corpus: Annotated[
        float | None,
        typer.Option(
            help="Share of the mixtures whose voices are from one corpus, if the voices are from several [any voices].",
            show_default=False,
        ),
    ] = None,
    corpus_from: Annotated[
        str, typer.Option(help="Regular expression that finds the corpus in the name of a voice, for --same-corpus.")
    ] = CORPUS_FROM,
    level: Annotated[
        str | None,
        typer.Option(
            help="Measure the levels of the voices by rms, p56 (active speech, ITU-T P.56) or lufs (ITU-R BS.1770) "
            "[rms, with --overlap or --single p56].",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[int, typer.Option(help="Sampling rate of the mixtures in Hz.", min=1000)] = 8000,
    mode: Annotated[str, typer.Option(help="min: cut to the shortest source. max: fill with silence.")] = "min",
    min_seconds: Annotated[float, typer.Option(help="Leave out shorter recordings.", min=0.1)] = 1.0,
    max_seconds: Annotated[float, typer.Option(help="Cut longer recordings at pauses into pieces.", min=1.0)] = 15.0,
    noise: Annotated[
        Path | None,
        typer.Option(
            help="Add noise from this folder of recordings to every mixture. Each split gets its own (by folders tr, "
            "cv, tt or by --fractions).",
            show_default=False,
        ),
    ] = None,
    noise_snr: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH",
            help="Draw the level of the louder voice over the noise from this range in dB [0,20].",
            show_default=False,
        ),
    ] = None,
    rirs: Annotated[
        Path | None,
        typer.Option(
            help="Add the echo of rooms from this folder of room impulse responses: one for each voice of a mixture, "
            "split as noise is. Those in one sub-folder are of one room.",
            show_default=False,
        ),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(help="Sources of a set with --rirs: reverberant or dry [reverberant].", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random choice: the same seed gives the same bytes.")] = 0,
    audio: Annotated[
        bool, typer.Option(help="Write the waves too, or only the recipes (mixtures are rendered when read).")
    ] = True,
    check: Check = False,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Make the mixture set; the types of the arguments describe them."""
    from sepclip.corpora.command import carry_out
    from sepclip.corpora.shares import parse_fractions
    from sepclip.corpora.speakers.plan import plan_voices
    from sepclip.corpora.speakers.presets import name_voices
    from sepclip.corpora.speakers.voice_settings import VoiceSettings, parse_range, read_voice_lists
    from sepclip.errors import UserError
    from sepclip.mixing.conversation import parse_overlap

    if noise_snr is not None and noise is None:
        raise UserError("--noise-snr goes with --noise, the folder of the recordings")
    if targets is not None and rirs is None:
        raise UserError("--targets goes with --rirs: without rooms all sources are dry")
    settings = VoiceSettings(
        sources=sources,
        counts={"tr": tr, "cv": cv, "tt": tt},
        split=split,
        unseen=tuple(sorted(set(name_voices(root, unseen, speaker_from=speaker_from, preset=preset)))),
        fractions=parse_fractions(fractions),
        speaker_from=speaker_from,
        preset=preset,
        level=level or ("p56" if overlap or single else "rms"),
        rate_hz=rate,
        mode=mode,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        noise=str(noise.resolve()) if noise else None,
        noise_snr_db=parse_range("--noise-snr", noise_snr or "0,20"),
        rirs=str(rirs.resolve()) if rirs else None,
        targets=targets or "reverberant",
        seed=seed,
        audio=audio,
        overlap=parse_overlap(overlap or ()),
        single=single,
        same_corpus=same_corpus,
        corpus_from=corpus_from,
        lists=read_voice_lists(voices) if voices else {},
    )
    carry_out(plan_voices(root, out, settings, corpus=CARD.name, jobs=jobs), check=check, as_json=as_json)


CORPORA = (Corpus(CARD, prepare),)
