"""From a folder of voices to a mixture set: survey, split, draw, write."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from sepclip.audio.files import NOT_READ
from sepclip.audio.layout import Layout
from sepclip.corpora.preflight import Preflight
from sepclip.corpora.speakers.draw import draw, split_groups
from sepclip.corpora.speakers.excerpts import count_barely_heard
from sepclip.corpora.speakers.noise_and_rooms import add_noise, add_rooms, require_apart
from sepclip.corpora.speakers.statistics import describe
from sepclip.corpora.speakers.survey import VoiceSurvey, survey_voices
from sepclip.corpora.speakers.voice_settings import VoiceSettings
from sepclip.corpora.write_set import Plan, PlannedSet, barely_heard_lines, find_finished, for_one_set, write_sets
from sepclip.errors import UserError, counted
from sepclip.mixing.levels import PEAK, LevelLaw
from sepclip.mixing.mixture_set import SET_FILE, MixtureSet, SetReport
from sepclip.mixing.recipe import SPLITS, Recipe
from sepclip.mixing.render import SetFolders, render_scene
from sepclip.terminal import say, say_some

VOICES_A_SOURCE = 6  # with this many or more, `auto` splits by voices


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
    recorded = {"corpus": corpus, "root": str(root.resolve()), **settings.document()}
    preflight = Preflight(out, smaller=", lower --tr, or leave the audio out with --no-audio")
    finished, missing = find_finished({out: recorded})
    if not missing:
        return Plan(preflight, finished)
    # survey the corpus, draw the voices of every mixture, then its noise and room
    survey = survey_voices(root, settings, jobs)
    recipes = _draw(root, survey, settings)
    if noise:
        recipes = add_noise(recipes, noise, settings, jobs)
    if rirs:
        recipes = add_rooms(recipes, rirs, settings, jobs)
    preflight.facts.extend(f"{split}: {counted(len(recipes[split]), 'mixture')}" for split in SPLITS)
    report = _report(survey, recipes, settings)
    preflight.facts.extend(
        barely_heard_lines(report.get("barely_heard", {}), {split: len(recipes[split]) for split in SPLITS})
    )
    planned = PlannedSet(out, recipes, root, Layout(settings.rate_hz, settings.sources), recorded, report)
    folders = SetFolders(root, noise, rirs, settings.targets)
    render = for_one_set(lambda recipe: render_scene(recipe, folders, settings.rate_hz)) if settings.audio else None
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
    if survey.corrected:
        report["corrected"] = dict(sorted(survey.corrected.items()))
    counts = {split: count_barely_heard(recipes[split], survey.activity, settings.rate_hz) for split in SPLITS}
    if any(counts.values()):
        report["barely_heard"] = counts
    report["statistics"] = {split: describe(recipes[split], survey.activity, settings.rate_hz) for split in SPLITS}
    return report


def _draw(root: Path, survey: VoiceSurvey, settings: VoiceSettings) -> dict[str, list[Recipe]]:
    """Draw the recipes of every split, and print what was found, left out and chosen."""
    enough = len(survey.voices) >= VOICES_A_SOURCE * settings.sources
    by_voice = (
        bool(settings.lists)
        or settings.split == "voices"
        or (settings.split == "auto" and not settings.unseen and enough)
    )
    try:
        groups = split_groups(survey, settings, by_voice=by_voice)
    except UserError:
        _print_survey(root, survey)
        raise
    _print_survey(root, survey, f", all named in {SET_FILE}")
    say(f"split {'by voices' if by_voice else 'within voices'}")
    recipes: dict[str, list[Recipe]] = {split: [] for split in SPLITS}
    for group in groups:
        drawn = draw(group, settings, survey.activity, first=len(recipes[group.split]))
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
    if survey.others:
        say(f"left alone: {survey.others}")
    if survey.left_out:
        say_some(
            f"left out {counted(len(survey.left_out), 'file')} ({survey.reasons()}){where}:",
            [f"{path}: {reason}" for path, reason in sorted(survey.left_out.items())],
            always=True,
        )
    if survey.corrected:
        say_some(
            f"corrected {counted(len(survey.corrected), 'file')}{where}:",
            [f"{path}: {how}" for path, how in sorted(survey.corrected.items())],
            always=True,
        )
    unread = {Path(path).suffix for path, reason in survey.left_out.items() if reason.startswith(NOT_READ)}
    for suffix in sorted(unread):
        say(f"to convert them: find {shlex.quote(str(root))} -name '*{suffix}' -exec ffmpeg -n -i {{}} {{}}.flac ';'")
