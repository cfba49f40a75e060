"""Gradient clipping rules with one interface, AutoClip first. Copy this file into any training script.

    rule = parse("auto:10")
    ...
    loss.backward()
    step = rule(model.named_parameters())   # clips in place; under a GradScaler, after scaler.unscale_(optimizer)
    optimizer.step()

Where to find what, from the top:

- ``Step`` is what a rule returns, ``Rule`` and ``NormRule`` are the base classes.
- ``AutoClip``: its ``_threshold`` adds the norm to the history and takes the percentile. The other rules follow.
- ``RULES`` is the table of all rules; ``parse`` turns a text such as ``"auto:10"`` into a rule.
- ``History.percentile`` computes the percentile, in microseconds at any length.
- Below that: norms and scaling of dense, sparse, complex and sharded gradients, names of layers, options as text.

AutoClip (Seetharaman, Wichern, Pardo, Le Roux, MLSP 2020, Algorithm 1): the threshold of a step is the p-th percentile
of the norms of all gradients so far, including the current one. So neither the first step nor a new smallest norm is
ever clipped, and ``auto:100`` never clips at all.

Differences from ``torch.nn.utils.clip_grad_norm_``: the factor is exactly 1 or threshold / norm, without the 1e-6
that shrinks small gradients; gradients within the threshold are not multiplied at all; and a norm that is zero, NaN or
infinite is not added to a history: every ``grad`` becomes None, so no optimizer moves, and ``step.skipped`` says why.
Save ``state_dict()`` in the checkpoint: without its history a resumed run differs from an uninterrupted one.

To add a rule, subclass ``NormRule`` (one norm, one threshold: implement ``_threshold``) or ``Rule`` (implement
``_clip``), set ``name``, ``grammar`` and ``traits`` (the default of ``NormRule`` includes scale-free: override it if
the threshold is absolute), name the attributes to save in ``memory``, and add the class to ``RULES``.
"""

import inspect
import math
import re
import sys
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

Parameters = torch.nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[Mapping[str, Any]]
"""A module, its parameters with or without names, or the ``param_groups`` of an optimizer."""


@dataclass(frozen=True)
class Step:
    """What a rule did to the gradients of one step."""

    norm: float
    """2-norm of all gradients together, before clipping."""
    threshold: float
    """The largest norm that this step could have kept; inf if nothing limits it, NaN if the norm is unusable."""
    factor: float
    """What the gradients were multiplied by: the smallest factor if there are several, 0 if the step was skipped."""
    skipped: str = ""
    """Why the gradients were dropped; empty if they were kept."""
    parts: Mapping[str, "Step"] = field(default_factory=dict)
    """The same for each layer or tensor that has a threshold of its own."""

    @property
    def clipped(self) -> bool:
        """Whether any gradient was made smaller."""
        return 0 < self.factor < 1


class TooManySkipped(RuntimeError):
    """So many steps in a row had no usable gradient that training cannot recover."""


class Rule:
    """The base class of all rules: it collects the gradients, drops unusable ones, counts, and saves its state.

    A subclass implements ``_clip``. Each argument of its ``__init__`` is an option of the text form and must be stored
    in an attribute of the same name; an argument without a default is the value after the colon.

    ``most_skipped``: raise TooManySkipped after this many skipped steps in a row.
    """

    name: ClassVar[str]
    grammar: ClassVar[str]  # the text form, for error messages
    memory: ClassVar[tuple[str, ...]] = ()  # attributes that belong to the state: numbers, strings, lists or dicts
    never_negative: ClassVar[tuple[str, ...]] = ()  # those of them that a saved state may not have below zero
    _steps_without_gradient = 0  # in a row; not part of the state
    traits: frozenset[str]
    """Which gradients share a factor ("whole", "group" or "element"), and "scale-free" if scaling all norms by a
    constant leaves the factors unchanged. The tests choose by these which laws a rule must obey."""

    def __init__(self, most_skipped: int = 100):
        _require(most_skipped >= 1, "most_skipped must be 1 or more")
        self.most_skipped = most_skipped
        self.steps = 0
        self.clipped = 0
        self.skipped = 0
        self.skipped_in_a_row = 0

    def __call__(self, parameters: Parameters) -> Step:
        """Clip the gradients of ``parameters``, named or not, in place, with one transfer from the device.

        A tensor that is given twice counts once. Raises TooManySkipped; TypeError for gradients whose true norm cannot
        be computed here; ValueError if there is nothing to clip (no parameters, tensors that cannot have a gradient, or
        no gradient in two steps in a row), or if the rule needs names and gets none.
        """
        distinct = _distinct(parameters)
        self._check_names([name for name, _ in distinct])
        names, owners, gradients = [], [], []
        # collect what has a gradient; frozen parameters have none
        for name, owner in distinct:
            gradient = owner.grad
            if gradient is not None:
                names.append(name)
                owners.append(owner)
                # nearly all gradients are plain; checking that here saves a function call for each
                plain = gradient.layout is torch.strided and not (
                    gradient.is_complex() or gradient.requires_grad or owner.__dict__
                )
                gradients.append(gradient if plain else _dense_gradient(name, owner))
        if not gradients:
            self._check_absence([owner for _, owner in distinct])
        self._steps_without_gradient = 0 if gradients else self._steps_without_gradient + 1
        # the rule itself; everything else in this method is bookkeeping
        step = self._clip(names, owners, gradients)
        self.steps += 1
        self.clipped += step.clipped
        if not step.skipped:
            self.skipped_in_a_row = 0
            return step
        # None and not zero: Adam's moments must not decay on a skipped step
        for owner in owners:
            owner.grad = None
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.most_skipped:
            raise TooManySkipped(f"{self.skipped_in_a_row} steps in a row were skipped (the last: {step.skipped})")
        return step

    def _clip(self, names: list[str], owners: list[Tensor], gradients: list[Tensor]) -> Step:
        """Clip ``gradients`` in place. They are dense and real, share memory with ``owners``' grads, and may be empty.

        A step that has to be dropped is returned with ``skipped`` set; the caller then drops the gradients.
        """
        raise NotImplementedError

    def _check_names(self, names: list[str]) -> None:
        """Raise ValueError if the rule cannot use the names of all parameters, including those without a gradient."""

    def _check_absence(self, owners: list[Tensor]) -> None:
        """Raise ValueError if the absence of any gradient must be a mistake: the optimizer would move unclipped."""
        hint = "give it model.parameters() in each step, because a generator that is kept is empty after the first"
        _require(owners, f"{self!r} got no parameters: {hint}")
        possible = any(owner.requires_grad for owner in owners)
        hint = "give it model.parameters(), not buffers, detached tensors, .data or a frozen model"
        _require(possible, f"none of the {len(owners)} tensors given to {self!r} can have a gradient: {hint}")
        hint = "call the rule after backward(), with the parameters of the model that is trained and not of a copy"
        repeated = self._steps_without_gradient > 0
        _require(not repeated, f"{self!r} found no gradient in {len(owners)} tensors, two steps in a row: {hint}")

    def clipped_shares(self) -> dict[str, float]:
        """Return the share of clipped steps of each part that has a threshold of its own, the most clipped first."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rule remembers, as numbers, strings, lists and dicts."""
        return {"rule": repr(self), **{key: getattr(self, key) for key in (*_COUNTERS, *self.memory)}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``. Raises ValueError, and changes nothing, if it is damaged or of another kind of rule.

        A value is damaged if its type is not the one that the rule has for it.
        """
        _require(isinstance(state, Mapping), f"the state of a rule is a mapping, not {state!r:.40}")
        # only the name of the rule must agree, because its options may change between runs
        if re.split("[:,]", str(state.get("rule")))[0] != self.name:
            raise ValueError(f"the state belongs to the rule {state.get('rule')!r}, this is {self!r}")
        # check everything before anything is changed
        missing = self.state_dict().keys() - state.keys()
        if missing:
            raise ValueError(f"the state of {state['rule']!r} lacks {', '.join(sorted(missing))}")
        for key in (*_COUNTERS, *self.memory):
            least = 0 if key in _COUNTERS or key in self.never_negative else -math.inf
            fits = _is_like(state[key], getattr(self, key), least)
            _require(fits, f"the state of {state['rule']!r} is damaged: {key} is {state[key]!r:.40}")
        most = max(state[key] for key in _COUNTERS)
        _require(most <= state["steps"], f"the state of {state['rule']!r} is damaged: it counts more than its steps")
        self._restore(state)

    def _restore(self, state: dict[str, Any]) -> None:
        for key in (*_COUNTERS, *self.memory):
            setattr(self, key, state[key])

    def __repr__(self) -> str:
        """Return the text form, without options that have their default: ``parse(repr(rule))`` is the same rule."""
        text = self.name
        for key, option in _options(type(self)).items():
            value = getattr(self, key)
            if option.default is option.empty:
                text += f":{_format(value)}"
            elif value != option.default:
                text += f",{key}={_format(value)}"
        return text


_COUNTERS = ("steps", "clipped", "skipped", "skipped_in_a_row")


class NormRule(Rule):
    """The base class of rules that compare one norm of all gradients with one threshold. Implement ``_threshold``."""

    traits = frozenset({"whole", "scale-free"})
    eps = 0.0  # added to the norm in the factor, as torch does
    drops = False  # drop steps above the threshold instead of scaling them

    def observe(self, norm: float) -> float:
        """Update the rule with the norm of a step and return the threshold of this step.

        This is the rule without gradients, for trainers that measure and clip on their own. Raises ValueError for a
        norm that is zero or not finite: skip such a step.
        """
        _require(_is_usable(float(norm)), f"a norm of {norm} cannot be used: skip this step")
        return self._threshold(float(norm))

    def _threshold(self, norm: float) -> float:
        """Return the threshold of a step with a usable ``norm``, and take the norm into the rule's history, if any.

        It is called once a step, before the gradients are scaled.
        """
        raise NotImplementedError

    def _clip(self, names: list[str], owners: list[Tensor], gradients: list[Tensor]) -> Step:
        # on a GPU this waits for the backward pass; what follows is Python on floats, some 2 µs for a percentile
        norm = global_norm(gradients)
        if not _is_usable(norm):
            return _unusable_step(norm)
        threshold = self._threshold(norm)
        if self.drops and norm > threshold:
            return Step(norm, threshold, 0.0, f"norm {norm:.3g} is above {threshold:.3g}")
        factor = _factor(norm, threshold, self.eps)
        _scale(gradients, factor)  # if there is nothing to clip, half the time of clip_grad_norm_
        return Step(norm, threshold, factor)


class AutoClip(NormRule):
    """``auto:P``: the threshold is the P-th percentile of all norms so far, including the current one.

    Seetharaman et al. 2020, Algorithm 1, for step t with gradient g_t:

        history   G_t = G_(t-1) + [ |g_t| ]
        threshold c_t = P-th percentile of G_t
        gradient  g_t <- g_t min(1, c_t / |g_t|)

    The percentile is interpolated linearly and bit-equal to ``numpy.percentile``. The history is exact and part of the
    state; P may change between saving and loading. Options:

    - ``window=N``: only the last N norms.
    - ``per=layer`` or ``per=tensor``: a history and a threshold for each (future work in section 6 of the paper).
    - ``eps=1e-6`` matches the authors' code (``clip_grad_norm_``), which also shrinks unclipped small gradients: by a
      tenth at norm 1e-5.
    """

    name = "auto"
    grammar = "auto:P[,window=N][,per=layer|tensor][,eps=E] (0 <= P <= 100)"

    def __init__(
        self,
        percentile: float,
        window: int | None = None,
        per: Literal["all", "layer", "tensor"] = "all",
        eps: float = 0.0,
        most_skipped: int = 100,
    ):
        super().__init__(most_skipped)
        _require(0 <= percentile <= 100, "the percentile must be from 0 to 100")
        _require(window is None or (window >= 1 and window == int(window)), "the window must be 1 or more, and whole")
        _require(per in ("all", "layer", "tensor"), "per must be one of all, layer, tensor")
        self.percentile, self.window, self.per, self.eps = percentile, window, per, _checked_eps(eps)
        self.traits = frozenset({"whole" if per == "all" else "group"} | ({"scale-free"} if not eps else set()))
        self._histories: dict[str, History] = {}  # by part; "" is the history of the norm of all gradients
        self._counts: dict[str, list[int]] = {}  # of each part: its steps, and how many of them were clipped
        self._plain_names: dict[str, str] = {}  # of each tensor: its name without the prefixes of wrappers,
        self._parts: dict[str, str] = {}  # and its part
        self._unnamed: int | None = None  # number of tensors without a name in a step

    def _threshold(self, norm: float, part: str = "") -> float:
        history = self._histories.get(part)
        if history is None:
            history = self._histories[part] = History(self.window)
        # the current norm first: a spike is clipped in the step in which it occurs
        history.add(norm)
        return history.percentile(self.percentile)

    def observe(self, norm: float) -> float:
        """Add the norm of a step to the history and return the percentile. Raises ValueError with ``per``."""
        _require(self.per == "all", f"{self!r} has no threshold for the norm of all gradients")
        return super().observe(norm)

    def _clip(self, names: list[str], owners: list[Tensor], gradients: list[Tensor]) -> Step:
        if self.per == "all":
            return super()._clip(names, owners, gradients)
        # one transfer for the norms of all tensors; the norms of parts and of the whole follow from them
        norms = _to_floats(_norms(gradients))
        norm = math.hypot(*norms)
        if not _is_usable(norm):
            return _unusable_step(norm)
        # each part is clipped as by a rule of its own, from the norms of its tensors
        steps = {}
        for part, members in self._members(names).items():
            part_norm = math.hypot(*(norms[index] for index in members))
            if part_norm == 0:  # nothing to clip, and not a norm for the history
                continue
            threshold = self._threshold(part_norm, part)
            factor = _factor(part_norm, threshold, self.eps)
            _scale([gradients[index] for index in members], factor)
            steps[part] = Step(part_norm, threshold, factor)
            counts = self._counts.setdefault(part, [0, 0])
            counts[0] += 1
            counts[1] += factor < 1
        # together the parts can keep at most the root of the sum of squares of their thresholds
        threshold = math.hypot(*(step.threshold for step in steps.values()))
        return Step(norm, threshold, min(step.factor for step in steps.values()), parts=steps)

    def _check_names(self, names: list[str]) -> None:
        """Choose the plain names of tensors that are new, from all names; ValueError if two tensors have one name."""
        if self.per == "all":
            return
        if self.per == "layer":
            _require_names(names, self)
        self._check_unnamed(names)
        # a name that was seen keeps its plain name, even if other names are given in this step
        if not self._plain_names.keys() >= set(names):
            plain = _without_wrappers(names, lambda name: self._part(name) in self._histories)
            self._plain_names = dict(zip(names, plain, strict=True)) | self._plain_names
            self._parts = {name: self._part(plain) for name, plain in self._plain_names.items()}
        if len({self._plain_names[name] for name in names}) < len(names):
            raise ValueError(f"{self!r} got two tensors of the same name: give each a name of its own")

    def _check_unnamed(self, names: list[str]) -> None:
        """Raise ValueError if the number of tensors without a name differs from that of the step before."""
        # an index stands for the same tensor only if the list of tensors stays the same
        count = sum(name.startswith(_UNNAMED) for name in names)
        if self._unnamed is None:  # the first step: all indices of a restored history must still have a tensor
            indices = [int(part[1:]) for part in self._histories if re.fullmatch(rf"{_UNNAMED}\d+", part)]
            self._unnamed = max([count, *(index + 1 for index in indices)])
        hint = "give all of them in each step, or use model.named_parameters()"
        _require(count == self._unnamed, f"{self!r} got {count} tensors without names, {self._unnamed} before: {hint}")

    def _part(self, plain_name: str) -> str:
        """Return the part, which has a history, of a tensor."""
        return layer_of(plain_name) if self.per == "layer" else plain_name

    def _members(self, names: list[str]) -> dict[str, list[int]]:
        """Return the parts that have histories, each with the indices of its tensors in ``names``."""
        members: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            members.setdefault(self._parts[name], []).append(index)
        return members

    def clipped_shares(self) -> dict[str, float]:
        """Return the share of clipped steps of each layer or tensor, the most clipped first."""
        shares = {part: clipped / steps for part, (steps, clipped) in self._counts.items()}
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def state_dict(self) -> dict[str, Any]:
        """Return the counters and the norms of each part: oldest first with a window, otherwise sorted."""
        histories = {part: history.norms() for part, history in self._histories.items()}
        parts = {part: list(counts) for part, counts in self._counts.items()}
        return {**super().state_dict(), "per": self.per, "window": self.window, "histories": histories, "parts": parts}

    def _restore(self, state: dict[str, Any]) -> None:
        # The percentile may differ. But sorted norms have lost their order, and a window has lost the norms before it,
        # so the window can only be kept or shrunk.
        saved, histories, parts = state["window"], state["histories"], state["parts"]
        fits = saved == self.window or (_is_like(saved, 0) and self.window and self.window < saved)
        if state["per"] != self.per or not fits:
            raise ValueError(f"the histories of {state['rule']!r} cannot be used by {self!r}")
        # everything is checked before anything is changed
        for name, by_part, sound in (("histories", histories, _are_norms), ("parts", parts, _are_part_counts)):
            damage = f"the state of {state['rule']!r} is damaged: its {name}"
            _require(isinstance(by_part, Mapping), f"{damage} are not a mapping")
            for part, values in by_part.items():
                _require(isinstance(part, str) and sound(values), f"{damage} have {values!r:.40} for {part!r:.40}")
        super()._restore(state)
        self._histories = {part: History(self.window, norms) for part, norms in histories.items()}
        self._counts = {part: list(counts) for part, counts in parts.items()}
        self._plain_names, self._parts, self._unnamed = {}, {}, None


class NoClipping(NormRule):
    """``none``: no clipping. Unusable gradients are still dropped."""

    name = "none"
    grammar = "none"

    def _threshold(self, norm: float) -> float:
        return math.inf


class FixedNorm(NormRule):
    """``norm:V``: one threshold for all steps (Pascanu et al. 2013). ``eps=1e-6`` is what ``clip_grad_norm_`` does."""

    name = "norm"
    grammar = "norm:V[,eps=E] (V > 0)"
    traits = frozenset({"whole"})

    def __init__(self, value: float, eps: float = 0.0, most_skipped: int = 100):
        super().__init__(most_skipped)
        _require(0 < value < math.inf, "the threshold must be above 0 and finite")
        self.value, self.eps = value, _checked_eps(eps)

    def _threshold(self, norm: float) -> float:
        return self.value


class FixedValue(Rule):
    """``value:V``: every element is clamped to -V to V (``clip_grad_value_``), which changes the direction.

    The real and the imaginary part of a complex gradient are clamped separately. ``step.factor`` is the factor of the
    largest element.
    """

    name = "value"
    grammar = "value:V (V > 0)"
    traits = frozenset({"element"})

    def __init__(self, value: float, most_skipped: int = 100):
        super().__init__(most_skipped)
        _require(0 < value < math.inf, "the limit must be above 0 and finite")
        self.value = value

    def _clip(self, names: list[str], owners: list[Tensor], gradients: list[Tensor]) -> Step:
        # an empty tensor has no largest element, for which torch raises an error
        gradients = [gradient for gradient in gradients if gradient.numel()]
        # norms for the report, largest elements for the decision: both in one transfer
        numbers = _to_floats(_norms(gradients) + [_largest(gradient) for gradient in gradients])
        norm, largest = math.hypot(*numbers[: len(gradients)]), numbers[len(gradients) :]
        if not _is_usable(norm):
            return _unusable_step(norm)
        # clamping every tensor would change nothing, but would write to all of them
        for gradient, peak in zip(gradients, largest, strict=True):
            if peak > self.value:
                gradient.clamp_(-self.value, self.value)
        # the norm of a gradient whose elements are all V
        bound = self.value * math.sqrt(sum(gradient.numel() for gradient in gradients))
        return Step(norm, bound, _factor(max(largest), self.value))


class AdaptiveGradientClipping(Rule):
    """``agc:V``: the gradient of a unit is at most V times as long as its weights (Brock et al. 2021, NFNets, eq. 3).

    A unit is a row of a weight, or a whole tensor of one dimension; weights count as at least 1e-3 long. NFNets do not
    clip the last linear layer: ``but=heads`` excludes the parameters that have ``heads`` as a component of their name.
    """

    name = "agc"
    grammar = "agc:V[,but=NAME] (V > 0)"
    traits = frozenset({"group"})
    shortest_weight = 1e-3

    def __init__(self, value: float, but: str = "", most_skipped: int = 100):
        super().__init__(most_skipped)
        _require(0 < value < math.inf, "the ratio must be above 0 and finite")
        self.value, self.but = value, but

    def _clip(self, names: list[str], owners: list[Tensor], gradients: list[Tensor]) -> Step:
        if self.but:
            _require_names(names, self)
        # first everything that has to be measured, so that one transfer brings all of it
        measured, factors, norms, limits = [], [], [], []
        for name, owner in zip(names, owners, strict=True):
            gradient: Tensor = owner.grad.detach()  # type: ignore[union-attr]
            if gradient.is_sparse or _is_sharded(gradient):
                raise TypeError(f"agc needs whole, dense gradients; that of {name} is sparse or sharded")
            if not gradient.numel():
                continue
            norm = _unit_norms(gradient)
            limit = self.value * _unit_norms(owner.detach()).clamp_min(self.shortest_weight)
            # an excluded parameter still counts in the norm, but has no limit
            if self.but and self.but in name.split("."):
                limit = torch.full_like(limit, math.inf)
            # the norm of the norms of the rows is the norm of the tensor
            measured.append(gradient)
            norms.append(torch.linalg.vector_norm(norm))
            limits.append(torch.linalg.vector_norm(limit))
            # a division by a norm of 0 is never selected, since no limit is below 0
            factors.append(torch.where(norm > limit, limit / norm, torch.ones_like(norm)))
        numbers = _to_floats([*norms, *limits, *(factor.amin() for factor in factors)])
        count = len(measured)
        lengths, bounds, smallest = (numbers[third * count :][:count] for third in range(3))
        norm_of_all = math.hypot(*lengths)
        if not _is_usable(norm_of_all):
            return _unusable_step(norm_of_all)
        # then scale the tensors that have a unit above its limit
        for gradient, factor, least in zip(measured, factors, smallest, strict=True):
            if least < 1:
                gradient.mul_(factor)
        return Step(norm_of_all, math.hypot(*bounds), min(smallest))


class MovingAverageRule(NormRule):
    """The base class of rules with a moving mean and variance: plain over ``warmup`` steps, then exponential."""

    memory = ("seen", "mean", "variance")
    never_negative = ("seen", "variance")

    def __init__(self, value: float, decay: float, warmup: int, most_skipped: int):
        super().__init__(most_skipped)
        _require(0 < value < math.inf, "the value must be above 0 and finite")
        _require(0 < decay < 1, "decay must be between 0 and 1")
        _require(warmup >= 2, "warmup must be 2 steps or more")
        self.value, self.decay, self.warmup = value, decay, warmup
        self.seen, self.mean, self.variance = 0, 0.0, 0.0

    def _update(self, number: float) -> None:
        self.seen += 1
        if self.seen <= self.warmup:  # Welford's update, with the variance in place of the sum of squares
            before = self.mean
            self.mean += (number - before) / self.seen
            self.variance += ((number - before) * (number - self.mean) - self.variance) / self.seen
        else:  # written as a correction, so that equal numbers leave the mean exactly as it is
            self.mean += (1 - self.decay) * (number - self.mean)
            self.variance += (1 - self.decay) * ((number - self.mean) ** 2 - self.variance)


class ZClip(MovingAverageRule):
    """``zclip:Z``: a norm more than Z deviations above the moving mean is cut to mean + (Z deviation)^2 / excess.

    The excess is norm - mean; the moving mean learns the norm after clipping (Kumar et al. 2025, "ZClip"). The authors'
    own code adds a fixed ``cap=1``, which is off here: it only suits norms near 1.
    """

    name = "zclip"
    grammar = "zclip:Z[,decay=D][,warmup=K][,cap=C] (Z > 0)"

    def __init__(
        self, value: float, decay: float = 0.97, warmup: int = 25, cap: float = math.inf, most_skipped: int = 100
    ):
        super().__init__(value, decay, warmup, most_skipped)
        _require(cap > 0, "cap must be above 0")
        self.cap = cap
        self.traits = frozenset({"whole", "scale-free"} if cap == math.inf else {"whole"})

    def _threshold(self, norm: float) -> float:
        # z = (norm - mean) / deviation; beyond Z the norm becomes mean + Z deviation (Z / z)
        reach = self.value * math.sqrt(self.variance)
        threshold = self.mean + reach if self.seen >= self.warmup else math.inf
        if norm > threshold:
            threshold = self.mean + reach**2 / (norm - self.mean)
        # learn the clipped norm, so that a spike hardly moves the mean; the cap does not affect what is learned
        self._update(min(norm, threshold))
        return min(threshold, self.cap)


class LogSigma(MovingAverageRule):
    """``logsigma:K``: a step whose log norm is more than K deviations above the moving mean is dropped whole.

    Chen et al. 2018, "The Best of Both Worlds": 4 deviations; they state neither the decay nor whether dropped norms
    count. Here they do, so that a lasting rise soon becomes normal and training cannot stop for good.
    """

    name = "logsigma"
    grammar = "logsigma:K[,decay=D][,warmup=N] (K > 0)"
    drops = True

    def __init__(self, value: float, decay: float = 0.99, warmup: int = 100, most_skipped: int = 100):
        super().__init__(value, decay, warmup, most_skipped)

    def _threshold(self, norm: float) -> float:
        # 1e-12 because exp(log(norm)) may round down, 700 because exp overflows at 710
        limit = self.mean + self.value * math.sqrt(self.variance) + 1e-12
        threshold = math.exp(min(limit, 700.0)) if self.seen >= self.warmup else math.inf
        self._update(math.log(norm))
        return threshold


class Pascanu(NormRule):
    """``pascanu:M``: no clipping for ``warmup`` steps, then a fixed threshold: M times their mean norm.

    Pascanu et al. 2013, section 3.2, suggest half to ten times the average.
    """

    name = "pascanu"
    grammar = "pascanu:M[,warmup=K] (M > 0)"
    memory = never_negative = ("seen", "total")

    def __init__(self, value: float, warmup: int = 1000, most_skipped: int = 100):
        super().__init__(most_skipped)
        _require(0 < value < math.inf, "the multiple must be above 0 and finite")
        _require(warmup >= 1, "warmup must be 1 step or more")
        self.value, self.warmup = value, warmup
        self.seen, self.total = 0, 0.0

    def _threshold(self, norm: float) -> float:
        # after the warm-up nothing is learned any more
        if self.seen >= self.warmup:
            return self.value * self.total / self.seen
        self.seen += 1
        self.total += norm  # not clipped while it is measured
        return math.inf


RULES: dict[str, type[Rule]] = {
    rule.name: rule
    for rule in (
        NoClipping, FixedNorm, FixedValue, AutoClip, AdaptiveGradientClipping, ZClip, Pascanu, LogSigma,
    )
}  # fmt: skip


def all_grammars() -> str:
    """Return the text form of every rule in ``RULES``."""
    return "; ".join(rule.grammar for rule in RULES.values())


def parse(text: str) -> Rule:
    """Return the rule that ``text`` describes, such as ``"auto:10"`` or ``"auto:10,window=1000,per=layer"``.

    Every rule takes ``most_skipped=N`` (steps in a row, 100 by default). Raises ValueError, which says what is allowed,
    if the text does not describe a rule.
    """
    first, *pairs = (part.strip() for part in text.split(","))
    name, colon, value = first.partition(":")
    try:
        if name not in RULES:
            # "auto10", "auto 10" and "AUTO=10" are common slips
            meant = re.fullmatch(r"([a-z]+)[ =]?(\d[\d.]*)", first.lower())
            hint = f"; did you mean {meant[1]}:{meant[2]}?" if meant and meant[1] in RULES else ""
            raise ValueError(f"no such name{hint}")
        # the value after the colon is the argument without a default, if the rule has one
        options = _options(RULES[name])
        required = [key for key, option in options.items() if option.default is option.empty]
        if bool(colon) != bool(required):
            raise ValueError("it needs a value" if required else "it takes no value")
        # then the options, each at most once
        texts = dict(zip(required, [value], strict=False))
        for pair in pairs:
            key, _, value = (part.strip() for part in pair.partition("="))
            if key not in options or key in texts:
                raise ValueError(f"{key} is given twice" if key in texts else f"there is no option {key!r}")
            texts[key] = value
        return RULES[name](**{key: _parse_option(options[key].annotation, value, key) for key, value in texts.items()})
    except ValueError as error:
        allowed = RULES[name].grammar if name in RULES else all_grammars()
        raise ValueError(f"{text!r} is not a clipping rule ({error}): write {allowed}") from error


class History:
    """All norms so far, or the last ``window`` of them, ready for any percentile in a few microseconds.

    The norms are sorted, in blocks, so that an insertion moves the norms of one block only. They take 8 bytes each,
    and with a window 8 more for their order.
    """

    _MAX_BLOCK = 2048  # a block of so many norms is halved

    def __init__(self, window: int | None = None, norms: Iterable[float] = ()):
        # a restored history may be longer than a window that was made smaller: the latest norms count
        kept = array("d", norms)[-window:] if window else array("d", norms)
        self._window = window
        self._ring = kept if window else array("d")  # the norms of the window in their order
        self._oldest = 0  # index of the oldest norm in a full ring
        # blocks start half full, so that the first insertions need not split them
        ordered, half = sorted(kept), self._MAX_BLOCK // 2
        self._blocks = [array("d", ordered[i : i + half]) for i in range(0, len(ordered), half)] or [array("d")]
        # lower bounds of the blocks, for the search
        self._starts = [-math.inf, *(block[0] for block in self._blocks[1:])]
        self._count = len(ordered)
        # the block of the last percentile and the number of norms before it: the next percentile is near
        self._cursor, self._before = 0, 0

    def __len__(self) -> int:
        return self._count

    def norms(self) -> list[float]:
        """Return the norms: oldest first with a window, otherwise sorted."""
        if self._window:
            return [*self._ring[self._oldest :], *self._ring[: self._oldest]]
        return [norm for block in self._blocks for norm in block]

    def percentile(self, percentile: float) -> float:
        """Return the percentile by linear interpolation, bit-equal to ``numpy.percentile``.

        Raises ValueError if the history is empty.
        """
        if not self._count:
            raise ValueError("a history without norms has no percentile")
        # the position between 0 and count - 1, and the two norms around it
        position = (percentile / 100) * (self._count - 1)
        low = math.floor(position)
        share = position - low
        above = self._nth(min(low + 1, self._count - 1))
        below = self._nth(low)
        # numpy interpolates from the nearer neighbour, and the two forms round differently
        if share < 0.5:
            return below + (above - below) * share
        return above - (above - below) * (1 - share)

    def add(self, norm: float) -> None:
        """Insert a norm; a full window loses its oldest one."""
        # with a window: replace the oldest norm, or append while the window is not full
        if self._window and self._count == self._window:
            self._remove(self._ring[self._oldest])
            self._ring[self._oldest] = norm
            self._oldest = (self._oldest + 1) % self._window
        elif self._window:
            self._ring.append(norm)
        # binary search for the block, then within it: 2048 norms move at most
        index = bisect_right(self._starts, norm) - 1
        block = self._blocks[index]
        insort(block, norm)  # moves at most 16 kB, which fits into the L1 cache
        self._count += 1
        self._before += index < self._cursor
        # halve a full block; the cursor keeps pointing to the same norms
        if len(block) == self._MAX_BLOCK:
            upper = block[self._MAX_BLOCK // 2 :]
            del block[self._MAX_BLOCK // 2 :]
            self._blocks.insert(index + 1, upper)
            self._starts.insert(index + 1, upper[0])
            self._cursor += index < self._cursor

    def _remove(self, norm: float) -> None:
        index = bisect_right(self._starts, norm) - 1
        while True:  # an equal norm may be in an earlier block
            block = self._blocks[index]
            place = bisect_left(block, norm)
            if place < len(block) and block[place] == norm:
                break
            index -= 1
        del block[place]
        self._count -= 1
        self._before -= index < self._cursor
        # an empty block is removed, and the cursor goes back to the start
        if not block and len(self._blocks) > 1:
            del self._blocks[index], self._starts[index]
            self._starts[0] = -math.inf
            self._cursor, self._before = 0, 0

    def _nth(self, rank: int) -> float:
        """Return the norm of a rank, the smallest being 0. Moves the cursor to its block."""
        # one more norm moves the rank by at most one, so these loops rarely turn more than once
        while rank < self._before:
            self._cursor -= 1
            self._before -= len(self._blocks[self._cursor])
        while rank >= self._before + len(self._blocks[self._cursor]):
            self._before += len(self._blocks[self._cursor])
            self._cursor += 1
        return self._blocks[self._cursor][rank - self._before]


# Names of parameters and their layers

_WRAPPER = re.compile(r"(^|(?<=\.))(_orig_mod|_checkpoint_wrapped_module)\.")  # torch.compile, activation checkpoints
_UNNAMED = "#"  # prefix of the index that stands for the name of an unnamed parameter


def layer_of(name: str) -> str:
    """Return the layer of a parameter: its module, or for a torch RNN one layer with both its directions.

    ``"heads.mask.bias"`` gives ``"heads.mask"``, ``"lstm.weight_hh_l1_reverse"`` gives ``"lstm.l1"``.
    """
    module, _, leaf = name.rpartition(".")
    # the names of torch.nn.RNNBase: all weights of a layer share a number at the end of theirs
    layer = re.search(r"_(l\d+)(_reverse)?$", leaf)
    return ".".join(filter(None, (module, layer[1]))) if layer else module or leaf


def _distinct(parameters: Parameters) -> list[tuple[str, Tensor]]:
    """Return each tensor of ``parameters`` once, with its name, or with ``#`` and its index if it has none."""
    distinct: dict[int, tuple[str, Tensor]] = {}  # by identity: equal weights are different tensors
    for name, owner in _named(parameters):
        if id(owner) not in distinct:
            distinct[id(owner)] = (f"{_UNNAMED}{len(distinct)}" if name is None else name, owner)
    return list(distinct.values())


def _named(parameters: object) -> Iterable[tuple[str | None, Tensor]]:
    """Yield tensors with their names, None if they have none. Raises TypeError for anything but ``Parameters``."""
    if isinstance(parameters, torch.nn.Module):
        parameters = parameters.named_parameters()
    single = isinstance(parameters, Tensor | Mapping | str) or not isinstance(parameters, Iterable)
    for entry in [parameters] if single else parameters:  # type: ignore[attr-defined]
        match entry:
            case Tensor():
                yield None, entry
            case (str(), Tensor()):
                yield entry
            case {"params": tensors, "param_names": names}:  # a group of an optimizer of named parameters
                yield from zip(names, tensors, strict=True)
            case {"params": tensors}:
                yield from _named(tensors)
            case Mapping():  # from names to tensors
                yield from _named(entry.items())
            case _:
                hint = "give a rule model.named_parameters(), model.parameters() or optimizer.param_groups"
                raise TypeError(f"{entry!r:.40} is not a parameter: {hint}")


def _without_wrappers(names: list[str], is_known: Callable[[str], bool]) -> list[str]:
    """Return the names without the prefixes of wrappers, so that a run can resume with other wrappers."""
    names = [_WRAPPER.sub("", name) for name in names]
    # DistributedDataParallel puts "module." before all names; before some only, or before names with a history, it
    # belongs to the model
    while names and all(name.startswith("module.") for name in names) and not any(map(is_known, names)):
        names = [name.removeprefix("module.") for name in names]
    return names


def _require_names(names: list[str], rule: Rule) -> None:
    unnamed = any(name.startswith(_UNNAMED) for name in names)
    _require(not unnamed, f"{rule!r} needs names: call it with model.named_parameters()")


# Norms and scaling of gradients: dense, sparse, complex, in low precision, and sharded (DTensor)

# FSDP (its first version) and DeepSpeed (ZeRO-3) mark their shards by attributes of the parameter
_SHARD_MARKS = {"_fsdp_flattened", "ds_id"}
_LOW_PRECISION = (torch.float16, torch.bfloat16)


def global_norm(gradients: list[Tensor]) -> float:
    """Return the 2-norm of all gradients together, summed over tensors in float64; 0 if there are none."""
    # hypot scales by the largest norm, so that no square overflows or underflows
    return math.hypot(*_to_floats(_norms(gradients)))


def _dense_gradient(name: str, owner: Tensor) -> Tensor:
    """Return the gradient of ``owner`` as a dense real tensor that shares its memory.

    Raises TypeError for a shard whose norm is not the norm of the whole, and for layouts other than COO.
    """
    # a rank would see only its part, and each would clip by another factor
    if not _SHARD_MARKS.isdisjoint(owner.__dict__):
        raise TypeError(
            f"the gradient of {name} is a shard, whose norm is not that of the whole: use fully_shard (FSDP2), or the "
            "trainer's own clipping"
        )
    gradient: Tensor = owner.grad.detach()  # type: ignore[union-attr]  # clipping is not part of a graph
    if gradient.layout is not torch.strided:
        if gradient.layout is not torch.sparse_coo:
            raise TypeError(f"the gradient of {name} is {gradient.layout}: only torch.sparse_coo is supported")
        # an uncoalesced tensor lists an element several times, and only the sum has a meaningful norm
        if not gradient.is_coalesced():
            owner.grad = gradient = gradient.coalesce()
        gradient = gradient._values()
    # view_as_real refuses a lazy conjugate; a second conjugate removes it without a copy
    if gradient.is_complex():  # neither norm nor clamp depends on the sign of the imaginary part
        gradient = torch.view_as_real(gradient.conj() if gradient.is_conj() else gradient)
    return gradient


def _norms(gradients: list[Tensor]) -> list[Tensor]:
    """Return the norm of each tensor as a tensor, in float32 for low precisions, whose own norm would be coarse."""
    kinds = {(type(gradient), gradient.dtype) for gradient in gradients}
    # one kernel for all, as in almost every model
    if len(kinds) == 1 and gradients[0].dtype not in _LOW_PRECISION:
        return list(torch._foreach_norm(gradients))
    return [
        torch.linalg.vector_norm(gradient, dtype=torch.float32 if gradient.dtype in _LOW_PRECISION else None)
        for gradient in gradients
    ]


def _scale(gradients: list[Tensor], factor: float) -> None:
    """Multiply in place unless the factor is 1. A mix of sharded and other tensors needs a loop in torch."""
    if factor < 1 and len(set(map(type, gradients))) == 1:
        torch._foreach_mul_(gradients, factor)  # one kernel for many tensors
    elif factor < 1:
        for gradient in gradients:
            gradient.mul_(factor)


def _largest(gradient: Tensor) -> Tensor:
    """Return the largest absolute element as a tensor; on a CPU 30 times as fast as the norm of order inf."""
    low, high = torch.aminmax(gradient)
    return torch.maximum(-low, high)


def _unit_norms(tensor: Tensor) -> Tensor:
    """Return the norm of each row, keeping its dimension, or of the whole tensor if it has at most one dimension."""
    dims = tuple(range(1 if tensor.dim() > 1 else 0, tensor.dim()))
    precision = torch.float32 if tensor.dtype in _LOW_PRECISION else None
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=dims, keepdim=True, dtype=precision)
    return norms


def _to_floats(scalars: list[Tensor]) -> list[float]:
    """Return scalar tensors as floats, with one transfer from each device; a sharded scalar is reduced to the whole."""
    # the common case is plain tensors on one device
    if len({(type(scalar), scalar.device) for scalar in scalars}) == 1 and type(scalars[0]) is Tensor:
        values: list[float] = torch.stack(scalars).tolist()
        return values
    # otherwise stack what has the same device and the same sharding
    groups: dict[object, list[int]] = {}
    for index, scalar in enumerate(scalars):
        sharding = (scalar.device_mesh, scalar.placements) if _is_sharded(scalar) else ()  # type: ignore[attr-defined]
        groups.setdefault((scalar.device, sharding), []).append(index)
    values = [0.0] * len(scalars)
    for indices in groups.values():
        stacked = torch.stack([scalars[index] for index in indices])
        whole = stacked.full_tensor() if _is_sharded(stacked) else stacked  # type: ignore[attr-defined]
        for index, value in zip(indices, whole.tolist(), strict=True):
            values[index] = value
    return values


def _is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, from FSDP2 or tensor parallelism. Does not import either."""
    return type(tensor) is not Tensor and hasattr(tensor, "full_tensor")


def _is_usable(norm: float) -> bool:
    return 0 < norm < math.inf  # False for NaN too


def _unusable_step(norm: float) -> Step:
    return Step(norm, math.nan, 0.0, "gradient is zero" if norm == 0 else "gradient is not finite")


def _factor(norm: float, threshold: float, eps: float = 0.0) -> float:
    """Return the factor that brings ``norm`` to ``threshold``, at most 1; ``eps`` is added to the norm as in torch."""
    if eps:
        return min(1.0, threshold / (norm + eps))  # clip_grad_norm_: max_norm / (total_norm + 1e-6)
    return 1.0 if norm <= threshold else threshold / norm


# Options as text


def _options(rule: type[Rule]) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of a rule's ``__init__``, which are the options of its text form."""
    return inspect.signature(rule, eval_str=True).parameters


def _parse_option(kind: Any, text: str, key: str) -> Any:
    """Convert the text of an option to the type that the rule's signature gives. Raises ValueError if it cannot be."""
    choices = get_args(kind)
    if str in map(type, choices):  # a Literal of strings
        if text not in choices:
            raise ValueError(f"{key} must be one of {', '.join(choices)}")
        return text
    kind = choices[0] if choices else kind  # ``int | None`` is read as an int
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{key} must be {'a whole number' if kind is int else 'a number'}, not {text!r}") from None


def _format(value: object) -> str:
    return str(value).removesuffix(".0")  # auto:10 and not auto:10.0


# Values of a saved state


def _is_like(value: object, example: object, least: float = -math.inf) -> bool:
    """Return whether ``value`` can replace ``example`` in the memory of a rule; a number must be at least ``least``."""
    if not isinstance(example, int | float) or isinstance(example, bool):
        return isinstance(value, type(example))
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
        return False
    if value < least or isinstance(example, int):
        return value >= least and isinstance(value, int)
    # JSON may turn 2.0 into 2; an integer can be too large for a float; some rules start at infinity
    return abs(value) <= sys.float_info.max or (isinstance(value, float) and math.isinf(example))


def _are_norms(values: object) -> bool:
    most = sys.float_info.max
    return isinstance(values, list) and all(isinstance(value, int | float) and 0 < value <= most for value in values)


def _are_part_counts(values: object) -> bool:
    """Return whether ``values`` are the number of steps of a part, and how many of them were clipped."""
    if not (isinstance(values, list) and len(values) == 2 and all(_is_like(value, 0, 0) for value in values)):
        return False
    return bool(0 < values[0] >= values[1])


def _require(condition: object, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _checked_eps(eps: float) -> float:
    _require(0 <= eps < math.inf, "eps must be 0 or more, and finite")
    return eps
