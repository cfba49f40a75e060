"""Any folder with a sub-folder a voice."""

from pathlib import Path
from typing import Annotated

import typer

from sepclip.mixing.corpora import Card

CARD = Card(
    name="speakers",
    what="Mixtures from any folder of recordings with one sub-folder a voice.",
    layout="ROOT/VOICE/**/*.{wav,flac,ogg,opus,mp3,aiff,...}; with --speaker-from REGEX the voice may stand anywhere "
    "in the path",
    size="from two voices with a few sentences each; a useful separator of strangers needs dozens of voices",
    licence="that of your recordings",
    source="your own recordings; LibriSpeech, VCTK or any corpus with a folder a speaker",
)


def _fractions(text: str) -> dict[str, float]:
    from sepclip.errors import UserError
    from sepclip.mixing.mixture import SPLITS

    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != len(SPLITS) or not (min(values) > 0 and abs(sum(values) - 1) <= 1e-6):  # NaN is neither
        raise UserError(f"--fractions {text}: give three positive numbers that sum to 1, such as 0.8,0.1,0.1")
    return dict(zip(SPLITS, values, strict=True))


def prepare(
    root: Annotated[Path, typer.Argument(help="Folder with one sub-folder a voice.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="New folder for the mixtures.", show_default=False)],
    sources: Annotated[int, typer.Option(help="Voices in a mixture.", min=2, max=3)] = 2,
    tr: Annotated[int, typer.Option(help="Training mixtures.", min=1)] = 1000,
    cv: Annotated[int, typer.Option(help="Validation mixtures.", min=1)] = 100,
    tt: Annotated[int, typer.Option(help="Test mixtures of each group (seen, unseen).", min=1)] = 100,
    split: Annotated[
        str,
        typer.Option(
            help="voices: no voice in two of tr, cv, tt. within: each voice's recordings are divided, file by file "
            "from three files on. auto: voices where there are six for each of --sources and no --unseen, else within."
        ),
    ] = "auto",
    unseen: Annotated[
        str,
        typer.Option(
            help="Voices kept out of training, for a test group of their own: a,b (as many as --sources, or more)."
        ),
    ] = "",
    fractions: Annotated[str, typer.Option(help="Shares of tr,cv,tt.")] = "0.8,0.1,0.1",
    speaker_from: Annotated[
        str | None,
        typer.Option(
            help="Regular expression that finds the voice in a file's path below ROOT: its group named "
            "'speaker', else its first group, else the whole match. For flat folders: '^[a-z]+\\d+'",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[int, typer.Option(help="Sampling rate of the mixtures in Hz.", min=1000)] = 8000,
    mode: Annotated[str, typer.Option(help="min: cut to the shortest source. max: fill up with silence.")] = "min",
    min_seconds: Annotated[float, typer.Option(help="Leave out shorter recordings.", min=0.1)] = 1.0,
    max_seconds: Annotated[float, typer.Option(help="Cut longer recordings into pieces.", min=1.0)] = 15.0,
    seed: Annotated[int, typer.Option(help="Seed of every choice: same seed, same bytes.")] = 0,
    audio: Annotated[bool, typer.Option(help="Write the waves too, or only the recipes (mixed when read).")] = True,
) -> None:
    """Make the mixture set; see the help of the command line for the arguments."""
    from sepclip.errors import UserError, counted
    from sepclip.mixing import drawing, survey, writing
    from sepclip.mixing.mixture import SET_FILE, SPLITS, Recipe
    from sepclip.terminal import out as stdout
    from sepclip.terminal import say, say_some

    if split not in ("auto", "voices", "within"):
        raise UserError(f"--split {split}: choose auto, voices or within")
    if mode not in ("min", "max"):
        raise UserError(f"--mode {mode}: choose min or max")
    unseen_voices = sorted({voice.strip() for voice in unseen.split(",") if voice.strip()})
    if unseen_voices and split == "voices":
        raise UserError(
            "--unseen keeps voices out of a split within voices; --split voices tests on unseen ones anyway"
        )
    if not min_seconds <= max_seconds < float("inf"):
        raise UserError(
            f"--max-seconds {max_seconds:g}: give a number of seconds from --min-seconds {min_seconds:g} on"
        )
    if root.resolve() in out.resolve().parents:
        raise UserError(f"{out} lies inside {root}, where its waves would be taken for a voice: choose another place")
    settings = {
        "corpus": CARD.name,
        "root": str(root.resolve()),
        "sources": sources,
        "counts": {"tr": tr, "cv": cv, "tt": tt},
        "split": split,
        "unseen": unseen_voices,
        "fractions": _fractions(fractions),
        "speaker_from": speaker_from,
        "rate_hz": rate,
        "mode": mode,
        "min_seconds": min_seconds,
        "max_seconds": max_seconds,
        "seed": seed,
        "audio": audio,
    }
    if writing.finished(out, settings):
        stdout.print(f"{out} is already prepared with these settings", markup=False, soft_wrap=True)
        return
    found = survey.survey_voices(
        root, rate_hz=rate, speaker_from=speaker_from, min_seconds=min_seconds, max_seconds=max_seconds
    )
    by_voice = split == "voices" or (split == "auto" and not unseen_voices and len(found.voices) >= 6 * sources)
    try:
        groups = drawing.split_groups(
            found,
            sources=sources,
            counts={"tr": tr, "cv": cv, "tt": tt},
            unseen=unseen_voices,
            by_voice=by_voice,
            fractions=_fractions(fractions),
            seed=seed,
        )
    finally:
        files = sum(len(survey.files_of(utterances)) for utterances in found.voices.values())
        say(
            f"found {counted(len(found.voices), 'voice')}, {counted(files, 'usable file')}, "
            f"{found.seconds / 60:.1f} min in {root}"
        )
        if found.left_out:
            say_some(
                f"left out {counted(len(found.left_out), 'file')} ({found.why()}), all named in {SET_FILE}:",
                [f"{path}: {reason}" for path, reason in sorted(found.left_out.items())],
            )
    say(f"split {'by voices' if by_voice else 'within voices'}")
    recipes: dict[str, list[Recipe]] = {name: [] for name in SPLITS}
    for group in groups:
        drawn = drawing.draw(
            group,
            sources=sources,
            seed=seed,
            mode=mode,
            rate_hz=rate,
            first=len(recipes[group.split]),
        )
        if len(drawn) < group.count:
            only = counted(len(drawn), "different mixture")
            say(f"{group.split} {group.name}: {group.count} asked for, but the voices give only {only}")
        recipes[group.split].extend(drawn)
    made = writing.write_set(
        out,
        recipes,
        root=root,
        rate_hz=rate,
        source_count=sources,
        audio=audio,
        settings=settings,
        report={"corpus_digest": found.digest, "left_out": dict(sorted(found.left_out.items()))},
    )
    parts = [
        f"{name} {sum(recipe.length for recipe in chosen) / rate / 60:.1f} min ("
        + ", ".join(f"{count} {group}" for group, count in writing.count_by_group(chosen).items())
        + ")"
        for name, chosen in recipes.items()
    ]
    what = "mixtures" if audio else "recipes (no audio: mixed when read)"
    stdout.print(f"wrote {what} to {made.path}: {', '.join(parts)}", markup=False, soft_wrap=True)
