"""Finds the separators that ship with sepclip and reads their cards.

A model is a folder of ``sepclip/pretrained`` that is used like a run. Its card is Markdown with a header in YAML, as on
model hubs; the header holds what ``sepclip models`` lists.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepclip.errors import UserError

DEFAULT = "two-speakers-16k"  # what `sepclip separate FILE` uses
CARD, WEIGHTS, CONFIG = "card.md", "weights.safetensors", "config.yaml"
_FENCE = "---\n"  # before and after the header of a card


@dataclass(frozen=True)
class TestScore:
    """A score on speakers that a model was not trained on, as its card states it.

    ``si_sdr_improvement`` is a mean in dB with the 95 % interval ``low`` to ``high``; ``ideal_share`` is its share of
    the improvement of the ideal binary mask, from 0 to 1; ``made_worse`` the share of mixtures with a negative one.
    """

    voices: str
    mixtures: int
    si_sdr_improvement: float
    low: float
    high: float
    ideal_share: float
    made_worse: float

    def __str__(self) -> str:
        gain = f"{self.si_sdr_improvement:.1f} dB [{self.low:.1f}..{self.high:.1f}]"
        return f"SI-SDRi {gain} on {self.mixtures} mixtures of {self.voices}"


@dataclass(frozen=True)
class ModelCard:
    """What is to know about a model; ``text`` is the card without its header, in Markdown."""

    name: str
    folder: Path
    task: str
    rate_hz: int
    training_data: str
    licence: str
    limits: str
    scores: tuple[TestScore, ...]
    text: str

    @property
    def megabytes(self) -> float:
        """The size of the weights in MB."""
        return (self.folder / WEIGHTS).stat().st_size / 1e6

    def facts(self) -> dict[str, Any]:
        """Return the header of the card as a JSON object."""
        return {
            "name": self.name,
            "default": self.name == DEFAULT,
            "task": self.task,
            "rate_hz": self.rate_hz,
            "megabytes": round(self.megabytes, 2),
            "training_data": self.training_data,
            "scores": [vars(score) for score in self.scores],
            "licence": self.licence,
            "limits": self.limits,
        }


def model_names() -> list[str]:
    """Return the names of all models, the default first."""
    names = sorted(card.parent.name for card in Path(__file__).parent.glob(f"*/{CARD}"))
    return sorted(names, key=lambda name: name != DEFAULT)


def read_card(name: str) -> ModelCard:
    """Return the card of a model. Raises UserError if there is no such model."""
    if name not in model_names():
        raise UserError(f"there is no model {name!r}; {_models()}")
    import yaml

    folder = Path(__file__).parent / name
    _, header, text = (folder / CARD).read_text(encoding="utf-8").split(_FENCE, 2)
    facts = yaml.safe_load(header)
    scores = tuple(TestScore(**score) for score in facts.pop("scores"))
    return ModelCard(name=name, folder=folder, scores=scores, text=text.strip(), **facts)


def is_model(run: str | Path) -> bool:
    """Return whether ``run`` names a model and not a run: a folder of the same name that is a run goes first."""
    return str(run) in model_names() and not (Path(run) / CONFIG).is_file()


def find_run(run: str | Path) -> Path:
    """Return the folder of a model if ``run`` is the name of one, else ``run``. Raises UserError if it is neither."""
    if is_model(run):
        return Path(__file__).parent / str(run)
    if not Path(run).exists():
        raise UserError(f"{run}: no such run or model; `sepclip train DATA --run {run}` creates a run; {_models()}")
    return Path(run)


def _models() -> str:
    return f"the models are {', '.join(model_names()) or 'not part of this installation'}"
