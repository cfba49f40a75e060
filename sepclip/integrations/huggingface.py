"""The clipping rules for Hugging Face's Trainer and its subclasses.

    class ClippedTrainer(ClipMixin, Trainer): ...

    trainer = ClippedTrainer(clip="auto:10", model=model, args=args, train_dataset=data)

The rule is attached to the optimizer that ``create_optimizer`` returns, the method that the library documents for
overriding. So it acts once per update, on unscaled gradients, and its history is saved in ``optimizer.pt`` of every
checkpoint. The Trainer's own clipping is switched off.
"""

import dataclasses
import math
from typing import Any

from sepclip.clip import Rule
from sepclip.integrations import as_rule, warn_of_empty_history
from sepclip.integrations.optimizer import OptimizerClip, clip_before_step

TESTED = "transformers 4.51 to 5.23"


class ClipMixin:
    """A base class to put before the Trainer. It adds the argument ``clip``: a rule or its text.

    It logs ``grad_norm``, ``clip_threshold``, ``clipped_share`` and ``skipped_steps`` with the loss. From the beginning
    of training, ``trainer.clip`` is the rule attached to the optimizer. ``fresh_clip=True`` ignores the history of a
    checkpoint.

    Raises ValueError for a ``max_grad_norm`` other than the default, and for DeepSpeed and FSDP.
    """

    args: Any
    model: Any

    def __init__(self, *args: Any, clip: Rule | str, fresh_clip: bool = False, **kwargs: Any):
        self._rule = as_rule(clip)
        self._fresh = fresh_clip
        self._resumes = False  # from a checkpoint, until the first step after it
        self.clip: OptimizerClip | None = None
        super().__init__(*args, **kwargs)
        if not hasattr(super(), "create_optimizer"):
            raise TypeError("ClipMixin must come before the Trainer: class ClippedTrainer(ClipMixin, Trainer)")
        for engine in ("is_deepspeed_enabled", "is_fsdp_enabled", "is_fsdp_xla_enabled"):
            if getattr(self, engine, False):
                raise ValueError(f"{engine.split('_')[1]} splits gradients over devices, which ClipMixin cannot clip")
        self._switch_off_built_in()

    def _switch_off_built_in(self) -> None:
        chosen = self.args.max_grad_norm
        default = next(field.default for field in dataclasses.fields(self.args) if field.name == "max_grad_norm")
        if chosen and chosen != default:
            raise ValueError(
                f"max_grad_norm={chosen:g} would clip in addition to {self._rule!r}: leave it out, or use "
                f"clip='norm:{chosen:g}' instead of {self._rule!r}"
            )
        self.args.max_grad_norm = 0.0

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Return the Trainer's optimizer with the rule attached, a new copy of the rule for each optimizer."""
        optimizer = super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        inner = getattr(optimizer, "optimizer", optimizer)  # wrapped by Accelerate in a second train()
        if self.clip is None or self.clip.optimizer is not inner:
            self.clip = clip_before_step(inner, self._rule, self.model, fresh=self._fresh)
        return optimizer

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does, and warn if the checkpoint to resume from has no history of the rule."""
        self._resumes = bool(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Train on a batch as the Trainer does. Raises RuntimeError if no rule is attached."""
        if self.clip is None:
            raise RuntimeError(
                f"{self._rule!r} is not attached, because create_optimizer() of ClipMixin was never called: "
                f"call it through super() in your own, or use {TESTED}"
            )
        # with save_only_model the checkpoint has no optimizer, whose state would have contained the history
        if self._resumes and not self.clip.rule.steps and not (self.clip.warned or self._fresh):
            warn_of_empty_history(self.clip.rule, "the checkpoint")
        self._resumes = False
        return super().training_step(*args, **kwargs)  # type: ignore[misc]

    def _get_grad_norm(self, *_: Any, **__: Any) -> None:
        """Return None: transformers 5 would compute the norm here, just before the rule does."""

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the last step and the counts of the rule to what is logged with the loss."""
        if self.clip and self.clip.last and "loss" in logs:
            step, rule = self.clip.last, self.clip.rule
            numbers = {"grad_norm": step.norm, "clip_threshold": step.threshold}
            logs |= {name: value for name, value in numbers.items() if math.isfinite(value)}
            logs |= {"clipped_share": rule.clipped / rule.steps, "skipped_steps": rule.skipped}
        super().log(logs, *args, **kwargs)  # type: ignore[misc]
