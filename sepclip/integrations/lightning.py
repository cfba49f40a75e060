"""The clipping rules as a Lightning callback: ``Trainer(callbacks=[GradientClipping("auto:10")])``."""

import importlib
import sys
import warnings
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from sepclip.clip import Rule, Step
from sepclip.integrations import as_rule, parameters_of, tell_skipped

NAMES = ("lightning.pytorch", "pytorch_lightning")
SHARDING = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")


def _library() -> Any:
    """Return Lightning. It goes by two names whose classes do not mix: the one that the script has imported counts."""
    for name in sorted(NAMES, key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.split(".")[0]):
                raise  # it is there, but something that it needs is not
    raise ModuleNotFoundError("Lightning is not installed: pip install lightning", name="lightning")


Callback: Any = _library().Callback


class GradientClipping(Callback):  # type: ignore[misc]
    """Clips what each optimizer is about to use, once an update, after unscaling; keeps its history in the checkpoint.

    One rule, as text or as object, serves all optimizers, each with a history of its own; or give one rule each, in
    the order of ``configure_optimizers``. Logs ``clip/norm``, ``clip/threshold``, ``clip/clipped`` (0 or 1) and
    ``clip/skipped`` (steps so far); with several optimizers ``clip/0/norm`` and so on.

    Works with automatic and manual optimization. The module's own ``on_before_optimizer_step`` comes after it. Raises
    ValueError where the Trainer clips too (``gradient_clip_val``), where gradients are split over devices, and for
    fused optimizers under a GradScaler, whose gradients are unscaled too late.
    """

    def __init__(self, *rules: Rule | str):
        if not rules:
            raise ValueError('GradientClipping needs a rule, such as "auto:10"')
        self._given = [as_rule(rule) for rule in rules]
        self.rules: list[Rule] = []
        """One for each optimizer, from the start of training."""
        self.last: list[Step | None] = []
        """What each did last."""
        self._names: dict[Tensor, str] = {}
        self._arriving: list[dict[str, Any]] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse trainers in which the rule would not do what it says."""
        if stage != "fit":
            return
        if trainer.gradient_clip_val:
            raise ValueError(
                f"gradient_clip_val={trainer.gradient_clip_val} would clip again what {self._given[0]!r} has clipped: "
                f"leave it out of the Trainer"
            )
        strategy = type(trainer.strategy)
        if any(base.__name__ in SHARDING for base in strategy.__mro__):
            raise ValueError(f"{strategy.__name__} splits gradients over devices, which this callback cannot clip")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make a rule for each optimizer, or go on with those of the checkpoint."""
        count = len(trainer.optimizers)
        if len(self._given) not in (1, count):
            raise ValueError(f"{len(self._given)} rules for {count} optimizers: give one, or one each")
        if len(self.rules) != count:
            given = self._given * count if len(self._given) == 1 else self._given
            self.rules = [as_rule(rule) for rule in given]
            self.last = [None] * count
        self._names = {tensor: name for name, tensor in pl_module.named_parameters()}
        if self._arriving is not None:
            if len(self._arriving) != count:
                raise ValueError(f"the checkpoint has clipped {len(self._arriving)} optimizers, here are {count}")
            for rule, state in zip(self.rules, self._arriving, strict=True):
                rule.load_state_dict(state)
            self._arriving = None
        elif trainer.ckpt_path:
            warnings.warn(
                f"the checkpoint has no history of a clipping rule: {self.rules[0]!r} starts afresh",
                RuntimeWarning,
                stacklevel=2,
            )

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        """Clip. Lightning calls this once an update, gradients complete and unscaled."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            raise ValueError(f"fused {type(optimizer).__name__} unscales its gradients after clipping: use fused=False")
        index = next(i for i, one in enumerate(trainer.optimizers) if one is optimizer)
        before, rule = self.last[index], self.rules[index]
        step = self.last[index] = rule(parameters_of(optimizer, self._names))
        tell_skipped(step, before, f"step {rule.steps} of optimizer {index}")
        prefix = "clip" if len(self.rules) == 1 else f"clip/{index}"
        facts = {"norm": step.norm, "threshold": step.threshold, "clipped": step.clipped, "skipped": rule.skipped}
        pl_module.log_dict({f"{prefix}/{name}": float(value) for name, value in facts.items()})

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every rule; Lightning puts it into its checkpoints."""
        return {"rules": [rule.state_dict() for rule in self.rules]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training starts: Lightning restores callbacks before there are optimizers."""
        self._arriving = state_dict["rules"] or None  # empty where it was saved before training
