"""The clipping rules for Hugging Face's Trainer and all that derive from it.

    class ClippedTrainer(ClipMixin, Trainer): ...

    trainer = ClippedTrainer(clip="auto:10", model=model, args=args, train_dataset=data)

The rule is attached to the optimizer that ``create_optimizer`` makes, which is the method that the library documents
for overriding. From there the rest follows: it acts once an update, on unscaled gradients, and its history lies in
``optimizer.pt`` of every checkpoint. The Trainer's own clipping is switched off.
"""

import dataclasses
import math
from typing import Any

from sepclip.clip import Rule
from sepclip.integrations import as_rule
from sepclip.integrations.optimizer import OptimizerClip, clip_before_step

TESTED = "transformers 4.51 to 5.23"


class ClipMixin:
    """Stands before a Trainer in the list of bases and takes one more argument, ``clip``: a rule or its text.

    Adds ``grad_norm``, ``clip_threshold`` and ``clipped_share`` to what is logged with the loss. ``trainer.clip`` is
    the rule attached to the optimizer, from the beginning of training.

    Raises ValueError for a ``max_grad_norm`` that somebody chose, and for DeepSpeed and FSDP.
    """

    args: Any
    model: Any

    def __init__(self, *args: Any, clip: Rule | str, **kwargs: Any):
        self._rule = as_rule(clip)
        self.clip: OptimizerClip | None = None
        super().__init__(*args, **kwargs)
        if not hasattr(super(), "create_optimizer"):
            raise TypeError("ClipMixin stands before a Trainer: class ClippedTrainer(ClipMixin, Trainer)")
        for engine in ("is_deepspeed_enabled", "is_fsdp_enabled", "is_fsdp_xla_enabled"):
            if getattr(self, engine, False):
                raise ValueError(f"{engine.split('_')[1]} splits gradients over devices, which ClipMixin cannot clip")
        self._switch_off_built_in()

    def _switch_off_built_in(self) -> None:
        own = self.args.max_grad_norm
        usual = next(field.default for field in dataclasses.fields(self.args) if field.name == "max_grad_norm")
        if own and own != usual:
            raise ValueError(
                f"max_grad_norm={own:g} would clip besides {self._rule!r}: leave it out, or clip='norm:{own:g}' alone"
            )
        self.args.max_grad_norm = 0.0

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Make the optimizer as ever and attach the rule, a fresh copy for each optimizer."""
        optimizer = super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        inner = getattr(optimizer, "optimizer", optimizer)  # Accelerate's wrapper, when train() is called again
        if self.clip is None or self.clip.optimizer is not inner:
            self.clip = clip_before_step(inner, self._rule, self.model.named_parameters())
        return optimizer

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Train on a batch as ever, but never without the rule."""
        if self.clip is None:
            raise RuntimeError(
                f"{self._rule!r} is not attached, because create_optimizer() of ClipMixin was never called: "
                f"call it through super() in your own, or use {TESTED}"
            )
        return super().training_step(*args, **kwargs)  # type: ignore[misc]

    def _get_grad_norm(self, *_: Any, **__: Any) -> None:
        """Measure nothing: transformers 5 would, and multiply all by 1, just before the rule measures."""

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add what the rule did to what is logged with the loss."""
        if self.clip and self.clip.last and "loss" in logs:
            step, rule = self.clip.last, self.clip.rule
            facts = {"grad_norm": step.norm, "clip_threshold": step.threshold}
            logs |= {name: value for name, value in facts.items() if math.isfinite(value)}
            logs |= {"clipped_share": rule.clipped / rule.steps, "skipped_steps": rule.skipped}
        super().log(logs, *args, **kwargs)  # type: ignore[misc]
