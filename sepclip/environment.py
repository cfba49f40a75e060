"""The versions and devices of this machine, and what they enable."""

import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TypedDict

import soundfile
import torch

import sepclip
from sepclip.audio.resample import load_torchaudio
from sepclip.config.load import shipped
from sepclip.corpora import corpora
from sepclip.errors import UserError, counted
from sepclip.model.networks import NETWORKS
from sepclip.model.separator import losses_of
from sepclip.parallel import cores
from sepclip.scoring.museval_adapter import load_museval_metrics
from sepclip.startup import keep_memory
from sepclip.training.hardware import resolve_device, resolve_precision

PACKAGES = (
    "torch",
    "torchaudio",
    "soundfile",
    "museval",
    "numpy",
    "matplotlib",
    "pydantic",
    "safetensors",
    "typer",
    "rich",
)


class MachineFacts(TypedDict):
    """The JSON document of `sepclip info --json`."""

    sepclip: str  # versions
    python: str
    platform: str
    packages: dict[str, str | None]  # name to version; None: not installed
    cpu_cores: int  # that this process may use
    cpu_threads: int  # of torch
    gpus: list[str]  # names of the CUDA devices
    device: str  # selected by --device auto
    precision: str  # selected by precision auto
    keeps_memory: bool  # whether the allocator keeps memory between training steps
    resampling: str  # "works", or "no: " and the reason
    bsseval: str  # likewise
    ffmpeg: str | None  # path of the program
    sound_formats: list[str]
    corpora: list[str]
    networks: dict[str, list[str]]  # name to the losses it can be trained with
    configs: list[str]  # recipes and grids that come with sepclip
    grids: list[str]


def gather() -> MachineFacts:
    """Return versions, devices and capabilities."""
    device = resolve_device("auto")
    return {
        "sepclip": sepclip.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu_cores": cores(),
        "cpu_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "device": str(device),
        "precision": resolve_precision("auto", device),
        "keeps_memory": keep_memory(),
        "resampling": _works(load_torchaudio),
        "bsseval": _works(load_museval_metrics),
        "ffmpeg": shutil.which("ffmpeg"),
        "sound_formats": sorted(set(soundfile.available_formats()) - {"RAW"}),
        "corpora": sorted(corpora()),
        "networks": {name: losses_of(name) for name in NETWORKS},
        "configs": shipped(),
        "grids": shipped(grids=True),
    }


def lines(facts: MachineFacts) -> list[str]:
    """Return the facts as lines of text for the terminal."""
    packages = ", ".join(f"{name} {number or 'not installed'}" for name, number in facts["packages"].items())
    allocator = (
        "kept between training steps (SEPCLIP_MALLOC=system switches it off)"
        if facts["keeps_memory"]
        else "left to the system's allocator"
    )
    return [
        f"sepclip {facts['sepclip']}, Python {facts['python']}, {facts['platform']}",
        f"packages: {packages}",
        f"device:   {facts['device']} ({', '.join(facts['gpus']) or 'no CUDA GPU'}), {facts['cpu_cores']} CPU cores, "
        + counted(facts["cpu_threads"], "thread"),
        f"training: --device auto is {facts['device']}, precision auto is {facts['precision']}; memory is {allocator}",
        f"resample: {facts['resampling']}",
        f"museval:  {facts['bsseval']}",
        f"ffmpeg:   {facts['ffmpeg'] or 'not found (not needed)'}",
        f"reads:    {', '.join(facts['sound_formats'])}",
        f"corpora:  {', '.join(facts['corpora'])}",
        *(f"network:  {name}, with the losses {', '.join(losses)}" for name, losses in facts["networks"].items()),
        f"configs:  {', '.join(facts['configs'])}",
        f"grids:    {', '.join(facts['grids'])}",
    ]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _works(load: Callable[[], object]) -> str:
    try:
        load()
    except UserError as error:
        return f"no: {error}"
    return "works"
