import math
import random

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from sepclip.config.load import load_config
from sepclip.config.schema import parse_spacing
from sepclip.errors import UserError
from sepclip.training.schedules import OPTIMIZERS, Schedule, build_optimizer


def schedule(*settings: str, steps: int = 100) -> Schedule:
    config = load_config(settings=[f"optimizer.{setting}" for setting in ("learning_rate=0.01", *settings)])
    return Schedule(config.optimizer, steps)


def test_constant_schedule_keeps_the_rate() -> None:
    tested = schedule("schedule=constant")
    assert [tested.rate(step) for step in (0, 1, 99, 1000)] == [0.01] * 4


def test_cosine_schedule_falls_from_the_full_rate_to_zero() -> None:
    tested = schedule("schedule=cosine")
    assert tested.rate(0) == 0.01
    assert tested.rate(50) == pytest.approx(0.005)
    assert tested.rate(25) == pytest.approx(0.01 * (1 + math.sqrt(0.5)) / 2)
    assert tested.rate(100) == pytest.approx(0, abs=1e-12)
    assert tested.rate(101) == pytest.approx(0, abs=1e-12)


def test_hold_schedule_is_constant_and_then_falls_in_a_line() -> None:
    tested = schedule("schedule=hold")
    assert [tested.rate(step) for step in (0, 1, 79, 80)] == [0.01] * 4
    assert [tested.rate(step) for step in (85, 90, 99)] == pytest.approx([0.0075, 0.005, 0.0005])
    assert [tested.rate(step) for step in (100, 101)] == [0, 0]
    assert tested.held_steps == 80
    assert [schedule("schedule=hold", steps=steps).held_steps for steps in (1, 4, 5, 9, 10)] == [1, 4, 4, 8, 8]
    assert schedule("schedule=cosine").held_steps == 100


@pytest.mark.parametrize("kind", ["constant", "hold", "cosine", "plateau"])
def test_warm_up_rises_in_equal_steps(kind: str) -> None:
    tested = schedule(f"schedule={kind}", "warmup_steps=10")
    assert [tested.rate(step) for step in range(10)] == pytest.approx([0.001 * k for k in range(1, 11)])
    assert tested.rate(10) == 0.01
    if kind == "cosine":
        assert tested.rate(55) == pytest.approx(0.005)  # halfway between warm-up and end


@pytest.mark.parametrize("patience", [0, 2, 5])
def test_plateau_agrees_with_torch_for_losses_above_zero(patience: int) -> None:
    tested = schedule("schedule=plateau", f"patience={patience}")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    reference = ReduceLROnPlateau(optimizer, factor=0.5, patience=patience, eps=0)
    chance, loss = random.Random(patience), 1.0
    for _ in range(60):
        loss *= chance.choice([0.9, 0.99995, 1.0, 1.1])
        tested.note_validation(loss)
        reference.step(loss)
        assert tested.rate(5) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert tested.halvings > 1


def test_plateau_handles_losses_below_zero() -> None:
    """Where torch's takes a loss of -10 that rises by less than a share of it for a better one."""
    tested = schedule("schedule=plateau", "patience=0")
    tested.note_validation(-10)
    tested.note_validation(-9.9999)
    assert tested.halvings == 1
    tested.note_validation(-11)
    tested.note_validation(math.nan)
    assert tested.halvings == 2


def test_the_state_of_a_plateau_can_be_saved() -> None:
    one, other = (schedule("schedule=plateau", "patience=1") for _ in range(2))
    for loss in (3.0, 4.0, 5.0, 4.0):
        one.note_validation(loss)
    other.load_state_dict(one.state_dict())
    for tested in (one, other):
        tested.note_validation(6.0)
    assert one.state_dict() == other.state_dict()
    assert other.halvings == 2


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_weight_decay_is_that_of_its_kind(name: str) -> None:
    """A first step from weight 2 with gradient 0.5, rate 0.1 and decay 0.1, by hand."""
    parameter = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    settings = load_config(
        settings=[f"optimizer.{s}" for s in (f"name={name}", "learning_rate=0.1", "weight_decay=0.1")]
    )
    optimizer = build_optimizer([parameter], settings.optimizer)
    parameter.grad = torch.tensor([0.5], dtype=torch.float64)
    optimizer.step()
    expected = {"adam": 2 - 0.1, "adamw": 2 - 0.1 * 0.1 * 2 - 0.1, "sgd": 2 - 0.1 * (0.5 + 0.1 * 2)}[name]
    assert parameter.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "number", "unit"), [("500", 500, 0), ("10min", 10, 60), ("60s", 60, 1), (" 0.5 s", 0.5, 1)]
)
def test_spacings_are_parsed(text: str, number: float, unit: int) -> None:
    assert parse_spacing(text) == (number, unit)
    settings = load_config(settings=[f"train.save_every={text}"]).train
    assert settings.saves_at(1000, 0) == (not unit)
    assert not settings.saves_at(999, 0)
    assert settings.saves_at(1, 601) == bool(unit)


@pytest.mark.parametrize("text", ["0", "-1", "2.5", "10 hours", "min", "0s", "x"])
def test_wrong_spacings_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"train\.save_every.*such as 500, or as time, such as 10min or 60s"):
        load_config(settings=[f"train.save_every={text}"])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("threads=0", "choose auto, or a number from 1"),
        ("threads=many", "choose auto, or a number from 1"),
        ("device=mps", "choose auto, cpu, cuda or cuda:N; Apple's mps is not supported"),
        ("device=gpu", "choose auto, cpu, cuda or cuda:N$"),
        ("optimizer.name=lion", "adam"),
        ("train.average=1", "less than 1"),
        ("train.accumulate=0", "greater than or equal to 1"),
        ("train.on_nonfinite=ignore", "skip"),
        ("train.best_by=sdr", "si-sdr"),
    ],
)
def test_wrong_settings_are_refused(setting: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_config(settings=[setting])
