"""From a folder of voices to a mixture set: survey, split, draw, write."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sepclip.audio.files import NOT_READ
from sepclip.audio.layout import Layout
from sepclip.audio.loudness import LAWS
from sepclip.corpora.preflight import MODES, Preflight, require_one_of
from sepclip.corpora.speakers.draw import draw, split_groups
from sepclip.corpora.speakers.noise_and_rooms import add_noise, add_rooms, require_apart, survey_noise, survey_rooms
from sepclip.corpora.speakers.presets import check_preset
from sepclip.corpora.speakers.statistics import describe
from sepclip.corpora.speakers.survey import VoiceSurvey, survey_voices
from sepclip.corpora.write_set import Plan, PlannedSet, find_finished, for_one_set, write_sets
from sepclip.errors import UserError, counted
from sepclip.mixing.levels import PEAK, LevelLaw
from sepclip.mixing.mixture_set import SET_FILE, MixtureSet, SetReport
from sepclip.mixing.recipe import SPLITS, Recipe
from sepclip.mixing.render import TARGETS, SetFolders, render_scene
from sepclip.terminal import say, say_some

VOICES_A_SOURCE = 6  # with this many or more, `auto` splits by voices


@dataclass(frozen=True)
class VoiceSettings:
    """All that decides, with the corpus, what is in a set of mixed voices; the options of the command line."""

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
        """Whether mixtures contain only voices, without noise or rooms."""
        return self.noise is None and self.rirs is None

    @property
    def additive(self) -> bool:
        """Whether the mixtures are the sum of their sources."""
        return self.noise is None and (self.rirs is None or self.targets == "reverberant")

    def __post_init__(self) -> None:
        """Raise UserError if a setting is not allowed."""
        require_one_of("--split", self.split, ("auto", "voices", "within"))
        require_one_of("--mode", self.mode, MODES)
        require_one_of("--level", self.level, tuple(LAWS))
        require_one_of("--targets", self.targets, TARGETS)
        if self.unseen and self.split == "voices":
            raise UserError(
                "--unseen keeps voices out of a split within voices; --split voices tests on unseen voices anyway"
            )
        if not 2 * self.min_seconds <= self.max_seconds < float("inf"):
            raise UserError(
                f"--max-seconds {self.max_seconds:g}: give {2 * self.min_seconds:g} or more, twice --min-seconds, so that "
                f"any recording can be cut"
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


def prepare_voices(root: Path, out: Path, settings: VoiceSettings, *, corpus: str) -> MixtureSet:
    """Make the mixture set ``out`` from the voices in ``root``, or resume it; a finished one is left as it is.

    Raise UserError if there are too few voices, the disk is too small, or ``out`` contains anything else.
    """
    (prepared,) = plan_voices(root, out, settings, corpus=corpus).prepare()
    return prepared.mixtures


def plan_voices(root: Path, out: Path, settings: VoiceSettings, *, corpus: str, jobs: int | None = None) -> Plan:
    """Read the voices in ``root``, draw the mixtures, and plan to write the set ``out``.

    Raise UserError if there are too few voices, or ``out`` contains anything else.
    """
    if root.resolve() in out.resolve().parents:
        raise UserError(f"{out} is inside {root}, where its waves would be taken for a voice: choose another place")
    noise, rirs = (Path(folder) if folder else None for folder in (settings.noise, settings.rirs))
    for option, folder in (("--noise", noise), ("--rirs", rirs)):
        if folder:
            require_apart(option, folder, root, out)
    lists = {"unseen": list(settings.unseen), "noise_snr_db": list(settings.noise_snr_db)}
    recorded = {"corpus": corpus, "root": str(root.resolve()), **asdict(settings), **lists}
    preflight = Preflight(out, smaller=", lower --tr, or leave the audio out with --no-audio")
    finished, missing = find_finished({out: recorded})
    if not missing:
        return Plan(preflight, finished)
    # survey the corpus, draw the voices of every mixture, then its noise and room
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
    recipes = _draw(root, survey, settings)
    rate_hz, shares, seed = settings.rate_hz, settings.fractions, settings.seed
    if noise:
        noises = survey_noise(noise, rate_hz, jobs)
        recipes = add_noise(recipes, noises, snr_db=settings.noise_snr_db, rate_hz=rate_hz, fractions=shares, seed=seed)
    if rirs:
        recipes = add_rooms(recipes, survey_rooms(rirs, rate_hz, jobs), fractions=shares, seed=seed)
    preflight.facts.extend(f"{split}: {counted(len(recipes[split]), 'mixture')}" for split in SPLITS)
    report = _report(survey, recipes, settings)
    planned = PlannedSet(out, recipes, root, Layout(rate_hz, settings.sources), recorded, report)
    folders = SetFolders(root, noise, rirs, settings.targets)
    render = for_one_set(lambda recipe: render_scene(recipe, folders, rate_hz)) if settings.audio else None
    preflight.needed_bytes = planned.missing_bytes if settings.audio else 0
    return Plan(preflight, write=lambda: write_sets([planned], render, jobs))


def _report(survey: VoiceSurvey, recipes: Mapping[str, list[Recipe]], settings: VoiceSettings) -> SetReport:
    report: SetReport = {
        "corpus_digest": survey.digest,
        "additive": settings.additive,
        "levels": LevelLaw(settings.level, peak=None if settings.plain else PEAK).document(),
    }
    if settings.noise is not None:
        report["noise_root"] = settings.noise
    if settings.rirs is not None:
        report |= {"rirs_root": settings.rirs, "targets": settings.targets}
    report["left_out"] = dict(sorted(survey.left_out.items()))
    report["statistics"] = {split: describe(recipes[split], survey.activity, settings.rate_hz) for split in SPLITS}
    return report


def _draw(root: Path, survey: VoiceSurvey, settings: VoiceSettings) -> dict[str, list[Recipe]]:
    """Draw the recipes of every split, and print what was found, left out and chosen."""
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
        _print_survey(root, survey)
        raise
    _print_survey(root, survey, f", all named in {SET_FILE}")
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


def _print_survey(root: Path, survey: VoiceSurvey, where: str = "") -> None:
    """Print what was found in a corpus, what was left out, and how to convert files that cannot be read."""
    files = {utterance.path for utterances in survey.voices.values() for utterance in utterances}
    say(
        f"found {counted(len(survey.voices), 'voice')}, {counted(len(files), 'usable file')}, "
        f"{survey.seconds / 60:.1f} min in {root}"
    )
    if survey.left_out:
        say_some(
            f"left out {counted(len(survey.left_out), 'file')} ({survey.reasons()}){where}:",
            [f"{path}: {reason}" for path, reason in sorted(survey.left_out.items())],
        )
    unread = {Path(path).suffix for path, reason in survey.left_out.items() if reason.startswith(NOT_READ)}
    for suffix in sorted(unread):
        say(f"to convert them: find {shlex.quote(str(root))} -name '*{suffix}' -exec ffmpeg -n -i {{}} {{}}.flac ';'")
