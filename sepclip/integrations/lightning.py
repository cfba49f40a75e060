"""The clipping rules as a Lightning callback: ``Trainer(callbacks=[GradientClipping("auto:10")])``."""

import importlib
import sys
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from sepclip.clip import Rule, Step
from sepclip.integrations import (
    as_rule,
    clip_gradients,
    load_history,
    parameters_of,
    tensors_of,
    warn_if_skipped,
    warn_of_empty_history,
)

NAMES = ("lightning.pytorch", "pytorch_lightning")
SHARDING = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")


def _library() -> Any:
    """Return Lightning, under the name that the script has imported: classes of its two packages do not mix."""
    for name in sorted(NAMES, key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.split(".")[0]):
                raise  # it is installed, but something that it imports is not
    raise ModuleNotFoundError("Lightning is not installed: pip install lightning", name="lightning")


Callback: Any = _library().Callback


class GradientClipping(Callback):  # type: ignore[misc]
    """A callback that clips the gradients of each optimizer once per update, after unscaling. Checkpoints include it.

    Give one rule, as text or as object, for all optimizers, each of which gets a history of its own; or one rule for
    each, in the order of ``configure_optimizers``. Logs ``clip/norm``, ``clip/threshold``, ``clip/clipped`` (0 or 1)
    and ``clip/skipped`` (steps so far); with several optimizers ``clip/0/norm`` and so on.

    The histories continue in a second ``fit`` of the same parameters and after a resume from a checkpoint; other
    parameters get new ones. ``fresh=True`` ignores the histories of a checkpoint.

    It works with automatic and manual optimization, and runs before the module's own ``on_before_optimizer_step``.
    Raises ValueError if the Trainer clips too (``gradient_clip_val``), if gradients are split over devices, and for
    fused optimizers under a GradScaler, whose gradients are unscaled too late.
    """

    def __init__(self, *rules: Rule | str, fresh: bool = False):
        if not rules:
            raise ValueError('GradientClipping needs a rule, such as "auto:10"')
        self._templates = [as_rule(rule) for rule in rules]
        self.rules: list[Rule] = []
        """The rule of each optimizer, from the start of training."""
        self.last: list[Step | None] = []
        """The last step of each rule."""
        self._fresh = fresh
        self._names: dict[Tensor, str] = {}
        self._trained: list[list[Tensor]] = []  # the parameters of each optimizer, to which the rules belong
        self._loaded: list[dict[str, Any]] | None = None  # states from a checkpoint, until training starts
        self._without_history = False  # whether a checkpoint was saved without this callback

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Raise ValueError if the Trainer clips too, or splits gradients over devices."""
        if stage != "fit":
            return
        parameters = set(map(id, pl_module.parameters()))
        if any(id(tensor) not in parameters for tensors in self._trained for tensor in tensors):
            # of another model, whose rules must not get into a checkpoint of this one
            self.rules, self.last, self._trained, self._loaded = [], [], [], None
        if trainer.gradient_clip_val:
            raise ValueError(
                f"gradient_clip_val={trainer.gradient_clip_val} would clip again what {self._templates[0]!r} has "
                f"clipped: leave it out of the Trainer"
            )
        strategy = type(trainer.strategy)
        if any(base.__name__ in SHARDING for base in strategy.__mro__):
            raise ValueError(f"{strategy.__name__} splits gradients over devices, which this callback cannot clip")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Create a rule for each optimizer, or restore the rules of the checkpoint."""
        count = len(trainer.optimizers)
        if len(self._templates) not in (1, count):
            raise ValueError(f"{len(self._templates)} rules for {count} optimizers: give one, or one for each")
        # Lightning creates new optimizers for each fit, so the parameters decide to which a rule belongs; these
        # references keep them alive, so that no other tensor can get the identity of one
        trained = [tensors_of(optimizer) for optimizer in trainer.optimizers]
        if [list(map(id, tensors)) for tensors in trained] != [list(map(id, tensors)) for tensors in self._trained]:
            templates = self._templates * count if len(self._templates) == 1 else self._templates
            self.rules = [as_rule(rule) for rule in templates]
            self.last = [None] * count
            self._trained = trained
        self._names = {tensor: name for name, tensor in pl_module.named_parameters()}
        # empty states are those of a checkpoint that was saved before training, as by the learning-rate finder
        if self._loaded and not self._fresh:
            if len(self._loaded) != count:
                raise ValueError(
                    f"the checkpoint has rules for {len(self._loaded)} optimizers, this run has {count}: to start with "
                    "fresh histories, write GradientClipping(..., fresh=True)"
                )
            for rule, state in zip(self.rules, self._loaded, strict=True):
                load_history(rule, state, "write GradientClipping(..., fresh=True)")
        elif self._without_history and not self._fresh:
            warn_of_empty_history(self.rules[0], "the checkpoint")
        self._loaded, self._without_history = None, False

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Forget what was read from a checkpoint, so that a later ``fit`` does not use it."""
        self._loaded, self._without_history = None, False

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        """Clip the gradients. Lightning calls this once per update, when they are complete and unscaled."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            raise ValueError(f"fused {type(optimizer).__name__} unscales its gradients after clipping: use fused=False")
        index = next(i for i, candidate in enumerate(trainer.optimizers) if candidate is optimizer)
        before, rule = self.last[index], self.rules[index]
        if any(tensor not in self._names for tensor in tensors_of(optimizer)):  # added during training
            self._names = {tensor: name for name, tensor in pl_module.named_parameters()}
        remedy = "make them parameters of the LightningModule, as attributes"
        step = self.last[index] = clip_gradients(rule, parameters_of(optimizer, self._names, remedy))
        warn_if_skipped(step, before, f"step {rule.steps} of optimizer {index}")
        prefix = "clip" if len(self.rules) == 1 else f"clip/{index}"
        numbers = {"norm": step.norm, "threshold": step.threshold, "clipped": step.clipped, "skipped": rule.skipped}
        pl_module.log_dict({f"{prefix}/{name}": float(value) for name, value in numbers.items()})

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every rule, for Lightning's checkpoints."""
        # states that were loaded and not used yet must survive a checkpoint that is saved before training starts
        return {"rules": self._loaded or [rule.state_dict() for rule in self.rules]}

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Note whether the checkpoint was saved without this callback."""
        self._without_history |= self.state_key not in checkpoint.get("callbacks", {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training starts: Lightning restores callbacks before optimizers exist."""
        self._loaded = state_dict["rules"]  # empty if it was saved before training
