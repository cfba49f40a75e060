"""Stems of music: MUSDB18, and any folder of tracks."""

from pathlib import Path
from typing import Annotated

import typer

from sepclip.corpora import Card, Corpus
from sepclip.corpora.command import Check, Jobs, Json, Out

# the validation tracks that the tools for MUSDB18 (musdb, torchaudio) take from train
VALIDATION = (
    "ANiMAL - Rockshow",
    "Actions - One Minute Smile",
    "Alexander Ross - Goodbye Bolero",
    "Clara Berry And Wooldog - Waltz For My Victims",
    "Fergessen - Nos Palpitants",
    "James May - On The Line",
    "Johnny Lokke - Promises & Lies",
    "Leaf - Summerghost",
    "Meaxic - Take A Step",
    "Patrick Talbot - A Reason To Leave",
    "Skelpolu - Human Mistakes",
    "Traffic Experiment - Sirens",
    "Triviul - Angelsaint",
    "Young Griffo - Pennies",
)
OFFICIAL = {"tr": 86, "cv": 14, "tt": 50}  # tracks
FRACTIONS = "0.8,0.1,0.1"
STEMS = Card(
    name="stems",
    what="Stems of music, or any sources in a fixed order, from a folder of tracks: vocals stay vocals, and no loss "
    "permutes them. Read in place, in stereo, at their own rate.",
    layout="ROOT/[train|valid|test/]TRACK/{vocals,drums,...}.{wav,flac,ogg,...}, the same names in every track, and "
    "mixture.wav or mix.wav (without it, the mixture is the sum of the stems); or ROOT/.../TRACK.stem.mp4",
    size="the new folder contains only recipes, unless --rate or --channels differ from the files",
    licence="that of your recordings",
    source="your own multitracks; MedleyDB, MoisesDB or Slakh after renaming their stems",
)
MUSDB18 = Card(
    name="musdb18",
    what="MUSDB18 and MUSDB18-HQ: 150 songs as vocals, drums, bass and other, with the usual 14 validation tracks. HQ "
    "is read in place; ffmpeg decodes stem files (.stem.mp4).",
    layout="ROOT/{train,test}/TRACK/{mixture,vocals,drums,bass,other}.wav, or ROOT/{train,test}/TRACK.stem.mp4",
    size="100 and 50 tracks, 10 hours; HQ 22.7 GB, read in place; .stem.mp4 4.7 GB, decoded into 32 GB",
    licence="for research and education; each song has its own",
    source="zenodo.org/records/3338373 (HQ), zenodo.org/records/1117372",
)

Root = Annotated[Path, typer.Argument(help="Folder of tracks.", show_default=False)]
Stems = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A,B,...",
        help="Stems to separate, in this order: vocals,drums,... Names may contain commas. It can be repeated [all "
        "that every track has].",
        show_default=False,
    ),
]
Rate = Annotated[
    int | None,
    typer.Option(help="Sampling rate in Hz; files of another rate are converted [that of the files].", min=1000),
]
Channels = Annotated[
    int | None, typer.Option(help="1 or 2; files of another number are converted [the most of any file].", min=1, max=2)
]
Seed = Annotated[int, typer.Option(help="Seed of the split.")]
Fractions = Annotated[str, typer.Option(help="Shares of tr,cv,tt, for splits without a folder of their own.")]


def prepare_stems(
    root: Root,
    out: Out,
    stems: Stems = None,
    rate: Rate = None,
    channels: Channels = None,
    fractions: Fractions = FRACTIONS,
    seed: Seed = 0,
    check: Check = False,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Write the recipes; the types of the arguments describe them."""
    from sepclip.corpora.command import carry_out
    from sepclip.corpora.shares import parse_fractions
    from sepclip.corpora.stems.plan import StemSettings, plan_stems
    from sepclip.corpora.stems.tracks import name_stems

    settings = StemSettings(parse_fractions(fractions), name_stems(root, stems), rate, channels, seed=seed)
    carry_out(plan_stems(root, out, settings, corpus=STEMS.name, jobs=jobs), check=check, as_json=as_json)


def prepare_musdb18(
    root: Root,
    out: Out,
    stems: Stems = ("vocals,drums,bass,other",),  # type: ignore[assignment]
    rate: Rate = None,
    channels: Channels = None,
    check: Check = False,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Write the recipes; the types of the arguments describe them."""
    from sepclip.corpora.command import carry_out
    from sepclip.corpora.shares import parse_fractions
    from sepclip.corpora.stems.plan import StemSettings, plan_stems
    from sepclip.corpora.stems.tracks import name_stems

    settings = StemSettings(parse_fractions(FRACTIONS), name_stems(root, stems), rate, channels, VALIDATION)
    plan = plan_stems(root, out, settings, corpus=MUSDB18.name, official=OFFICIAL, jobs=jobs)
    carry_out(plan, check=check, as_json=as_json)


CORPORA = (Corpus(STEMS, prepare_stems), Corpus(MUSDB18, prepare_musdb18))
