"""From a folder of voices to a mixture set: survey, split, draw, write."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sepclip.audio.files import NOT_READ
from sepclip.audio.layout import Layout
from sepclip.audio.loudness import LAWS
from sepclip.corpora import write_set
from sepclip.corpora.preflight import MODES, Plan, Preflight, require_one_of
from sepclip.corpora.speakers.draw import draw, split_groups
from sepclip.corpora.speakers.noise_and_rooms import add_scene, check_place
from sepclip.corpora.speakers.presets import check_preset
from sepclip.corpora.speakers.statistics import describe
from sepclip.corpora.speakers.survey import VoiceSurvey, files_of, survey_voices
from sepclip.corpora.write_set import Prepared
from sepclip.errors import UserError, counted
from sepclip.mixing.levels import PEAK, LevelLaw
from sepclip.mixing.mixture_set import SET_FILE
from sepclip.mixing.recipe import SPLITS, Recipe
from sepclip.mixing.render import TARGETS, SetFolders, render_scene
from sepclip.terminal import say, say_some

VOICES_A_SOURCE = 6  # from so many on, `auto` splits by voices


@dataclass(frozen=True)
class VoiceSettings:
    """All that decides, with the corpus, what a set of mixed voices holds; the options of the command line."""

    counts: Mapping[str, int]  # of the mixtures of each split
    fractions: Mapping[str, float]  # of the voices or recordings that go to each split
    unseen: tuple[str, ...] = ()
    sources: int = 2
    split: str = "auto"
    speaker_from: str | None = None
    preset: str | None = None
    level: str = "rms"
    rate_hz: int = 8000
    mode: str = "min"
    min_seconds: float = 1.0
    max_seconds: float = 15.0
    noise: str | None = None  # folder
    noise_snr_db: tuple[float, float] = (0.0, 20.0)
    rirs: str | None = None  # folder
    targets: str = "reverberant"
    seed: int = 0
    audio: bool = True

    @property
    def plain(self) -> bool:
        """Whether there is nothing but voices, in no room."""
        return self.noise is None and self.rirs is None

    @property
    def additive(self) -> bool:
        """Whether the mixtures are the sum of their sources."""
        return self.noise is None and (self.rirs is None or self.targets == "reverberant")

    def __post_init__(self) -> None:
        """Raise UserError for what is not allowed."""
        require_one_of("--split", self.split, ("auto", "voices", "within"))
        require_one_of("--mode", self.mode, MODES)
        require_one_of("--level", self.level, tuple(LAWS))
        require_one_of("--targets", self.targets, TARGETS)
        if self.unseen and self.split == "voices":
            raise UserError(
                "--unseen keeps voices out of a split within voices; --split voices tests on unseen ones anyway"
            )
        if not 2 * self.min_seconds <= self.max_seconds < float("inf"):
            raise UserError(
                f"--max-seconds {self.max_seconds:g}: give a number of seconds from {2 * self.min_seconds:g} on, twice "
                f"--min-seconds, so that any recording can be cut"
            )
        check_preset(self.preset, self.speaker_from)


def parse_range(option: str, text: str) -> tuple[float, float]:
    """Read two numbers, the lower first, such as ``"0,20"``."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not -100 <= low <= high <= 100:
        raise UserError(f"{option} {text}: give the lowest and the highest in dB, such as 0,20")
    return low, high


def prepare_voices(root: Path, out: Path, settings: VoiceSettings, *, corpus: str) -> Prepared:
    """Make the mixture set ``out`` from the voices in ``root``, or go on with it; a finished one is left as it is.

    Raises UserError where there are too few voices, the disk is too small, or ``out`` holds anything else.
    """
    plan = plan_voices(root, out, settings, corpus=corpus)
    if not plan.already:
        plan.preflight.require()
    return plan.make()


def plan_voices(
    root: Path, out: Path, settings: VoiceSettings, *, corpus: str, jobs: int | None = None
) -> Plan[Prepared]:
    """Read the voices in ``root`` and draw the mixtures; what is left is to write the set ``out``.

    Raises UserError where there are too few voices, or ``out`` holds anything else.
    """
    if root.resolve() in out.resolve().parents:
        raise UserError(f"{out} lies inside {root}, where its waves would be taken for a voice: choose another place")
    for option, folder in (("--noise", settings.noise), ("--rirs", settings.rirs)):
        check_place(option, folder, root, out)
    lists = {"unseen": list(settings.unseen), "noise_snr_db": list(settings.noise_snr_db)}
    recorded = {"corpus": corpus, "root": str(root.resolve()), **asdict(settings), **lists}
    preflight = Preflight(out, smaller=", lower --tr, or leave the audio out with --no-audio")
    done = write_set.finished(out, recorded)
    if done:
        return Plan(preflight, lambda: Prepared(done, already=True), already=True)
    survey = survey_voices(
        root,
        rate_hz=settings.rate_hz,
        speaker_from=settings.speaker_from,
        preset=settings.preset,
        law=settings.level,
        min_seconds=settings.min_seconds,
        max_seconds=settings.max_seconds,
        jobs=jobs,
    )
    recipes = add_scene(
        _draw(root, survey, settings),
        noise=settings.noise,
        snr_db=settings.noise_snr_db,
        rirs=settings.rirs,
        rate_hz=settings.rate_hz,
        fractions=settings.fractions,
        seed=settings.seed,
        jobs=jobs,
    )
    scene: dict[str, Any] = {"levels": LevelLaw(settings.level, peak=None if settings.plain else PEAK).document()}
    if settings.noise is not None:
        scene |= {"noise_root": settings.noise}
    if settings.rirs is not None:
        scene |= {"rirs_root": settings.rirs, "targets": settings.targets}
    places = SetFolders(root, Path(settings.noise) if settings.noise else None, Path(settings.rirs) if settings.rirs else None, settings.targets)
    preflight.facts.extend(f"{split}: {counted(len(recipes[split]), 'mixture')}" for split in SPLITS)
    if settings.audio:
        preflight.needed_bytes = write_set.bytes_to_write(out, recipes, 1 + settings.sources)

    def make() -> Prepared:
        made = write_set.write_set(
            out,
            recipes,
            root=root,
            layout=Layout(settings.rate_hz, settings.sources),
            render=(lambda recipe: render_scene(recipe, places, settings.rate_hz)) if settings.audio else None,
            settings=recorded,
            report={
                "corpus_digest": survey.digest,
                "additive": settings.additive,
                **scene,
                "left_out": dict(sorted(survey.left_out.items())),
                "statistics": {split: describe(recipes[split], survey.activity, settings.rate_hz) for split in SPLITS},
            },
            jobs=jobs,
        )
        return Prepared(made, already=False)

    return Plan(preflight, make)


def _draw(root: Path, survey: VoiceSurvey, settings: VoiceSettings) -> dict[str, list[Recipe]]:
    """Draw the recipes of every split, and tell what was found, left out and chosen."""
    enough = len(survey.voices) >= VOICES_A_SOURCE * settings.sources
    by_voice = settings.split == "voices" or (settings.split == "auto" and not settings.unseen and enough)
    try:
        groups = split_groups(
            survey,
            sources=settings.sources,
            counts=settings.counts,
            unseen=settings.unseen,
            by_voice=by_voice,
            fractions=settings.fractions,
            seed=settings.seed,
        )
    except UserError:
        _tell(root, survey)
        raise
    _tell(root, survey, f", all named in {SET_FILE}")
    say(f"split {'by voices' if by_voice else 'within voices'}")
    recipes: dict[str, list[Recipe]] = {split: [] for split in SPLITS}
    for group in groups:
        drawn = draw(
            group,
            sources=settings.sources,
            seed=settings.seed,
            mode=settings.mode,
            by_peaks=settings.plain,
            first=len(recipes[group.split]),
        )
        if len(drawn) < group.count:
            only = counted(len(drawn), "different mixture")
            say(f"{group.split} {group.name}: {group.count} asked for, but the voices give only {only}")
        recipes[group.split].extend(drawn)
    return recipes


def _tell(root: Path, survey: VoiceSurvey, where: str = "") -> None:
    """Tell what was found in a corpus, what was left out, and how to convert what is not read."""
    files = sum(len(files_of(utterances)) for utterances in survey.voices.values())
    say(
        f"found {counted(len(survey.voices), 'voice')}, {counted(files, 'usable file')}, "
        f"{survey.seconds / 60:.1f} min in {root}"
    )
    if survey.left_out:
        say_some(
            f"left out {counted(len(survey.left_out), 'file')} ({survey.why()}){where}:",
            [f"{path}: {reason}" for path, reason in sorted(survey.left_out.items())],
        )
    unread = {Path(path).suffix for path, reason in survey.left_out.items() if reason.startswith(NOT_READ)}
    for suffix in sorted(unread):
        say(f"to convert them: find {shlex.quote(str(root))} -name '*{suffix}' -exec ffmpeg -n -i {{}} {{}}.flac ';'")
