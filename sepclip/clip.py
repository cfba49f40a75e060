"""Gradient clipping rules with one interface, AutoClip first of all. Copy this file into any training script.

    rule = parse("auto:10")
    ...
    loss.backward()
    step = rule(model.named_parameters())   # clips in place; under a GradScaler, after scaler.unscale_(optimizer)
    optimizer.step()

AutoClip (Seetharaman, Wichern, Pardo, Le Roux, MLSP 2020, Algorithm 1): the threshold of a step is the p-th percentile
of the norms of all gradients seen so far, the present one among them. So the first step is never clipped, nor is
one with the smallest norm yet, and ``auto:100`` never clips at all.

What is done differently from ``torch.nn.utils.clip_grad_norm_``: the factor is exactly 1 or threshold / norm, without
the 1e-6 that shrinks small gradients; nothing is multiplied where nothing is clipped; and a norm that is not finite,
or zero, enters no history: every ``grad`` becomes None, so that no optimizer moves, and the step says so.
``state_dict()`` belongs into the checkpoint: without its history a resumed run is another run.
"""

import inspect
import math
import re
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

Parameters = torch.nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]]


@dataclass(frozen=True)
class Step:
    """What a rule did to the gradients of one step."""

    norm: float
    """2-norm of all gradients together, before clipping."""
    threshold: float
    """The largest norm that this step could have kept; inf where nothing limits it, NaN where the norm is of no use."""
    factor: float
    """What the gradients were multiplied by: the smallest factor where there are several, 0 where it was skipped."""
    skipped: str = ""
    """Why the gradients were dropped, empty where they were not."""
    parts: Mapping[str, "Step"] = field(default_factory=dict)
    """The same for every layer or tensor that has a threshold of its own."""

    @property
    def clipped(self) -> bool:
        """Whether any gradient was made smaller."""
        return 0 < self.factor < 1


class TooManySkipped(RuntimeError):
    """So many steps in a row had no usable gradient that training cannot recover."""


class Rule:
    """The frame of all rules: measure once, decide, scale in place, count. A rule of its own overrides ``_clip``.

    ``most_skipped``: raise TooManySkipped after so many skipped steps in a row.
    """

    name: ClassVar[str]
    grammar: ClassVar[str]  # how it is written
    memory: ClassVar[tuple[str, ...]] = ()  # attributes of plain data that belong to the state
    traits: frozenset[str]
    """What gradients share a factor, "whole", "group" or "element", and "scale-free" where their unit is no matter."""

    def __init__(self, most_skipped: int = 100):
        _require(most_skipped >= 1, "most_skipped must be 1 or more")
        self.most_skipped = most_skipped
        self.steps = 0
        self.clipped = 0
        self.skipped = 0
        self.skipped_in_a_row = 0

    def __call__(self, parameters: Parameters) -> Step:
        """Clip the gradients of ``parameters``, named or not, in place. One transfer from the device.

        Raises TooManySkipped; TypeError for gradients whose true norm cannot be known here; ValueError where a rule
        needs names and has none.
        """
        names, owners, values = [], [], []
        for name, owner in _named(parameters):
            gradient = owner.grad
            if gradient is not None:
                names.append(name)
                owners.append(owner)
                plain = gradient.layout is torch.strided and not (
                    gradient.is_complex() or gradient.requires_grad or owner.__dict__
                )
                values.append(gradient if plain else _values(name, owner))
        step = self._clip(names, owners, values)
        self.steps += 1
        self.clipped += step.clipped
        if not step.skipped:
            self.skipped_in_a_row = 0
            return step
        for owner in owners:
            owner.grad = None
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.most_skipped:
            raise TooManySkipped(f"{self.skipped_in_a_row} steps in a row were skipped: the last {step.skipped}")
        return step

    def _clip(self, names: list[str], owners: list[Tensor], values: list[Tensor]) -> Step:
        """Clip ``values``, which share the memory of the gradients, are dense and real, and may be empty."""
        raise NotImplementedError

    def shares(self) -> dict[str, float]:
        """Return the share of clipped steps of each part that has a threshold of its own, the most clipped first."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return all that the rule remembers, as numbers, strings, lists and dicts."""
        return {"rule": repr(self), **{key: getattr(self, key) for key in (*_COUNTERS, *self.memory)}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``. Raises ValueError, and changes nothing, where it is not of this kind of rule."""
        if re.split("[:,]", str(state.get("rule")))[0] != self.name:
            raise ValueError(f"the state is of the rule {state.get('rule')!r}, this is {self!r}")
        missing = self.state_dict().keys() - state.keys()
        if missing:
            raise ValueError(f"the state of {state['rule']!r} lacks {', '.join(sorted(missing))}")
        self._restore(state)

    def _restore(self, state: dict[str, Any]) -> None:
        for key in (*_COUNTERS, *self.memory):
            setattr(self, key, state[key])

    def __repr__(self) -> str:
        text = self.name
        for key, setting in _settings(type(self)).items():
            value = getattr(self, key)
            if setting.default is setting.empty:
                text += f":{_written(value)}"
            elif value != setting.default:
                text += f",{key}={_written(value)}"
        return text


_COUNTERS = ("steps", "clipped", "skipped", "skipped_in_a_row")


class NormRule(Rule):
    """``none``: no clipping, and the frame of the rules that hold one norm of all gradients against one threshold."""

    name = "none"
    grammar = "none"
    traits = frozenset({"whole", "scale-free"})
    eps = 0.0
    drops = False  # steps above the threshold, instead of scaling them

    def observe(self, norm: float) -> float:
        """Take the norm of a step into the history; return the threshold of this step.

        This is a rule without its gradients, for trainers that measure and clip by themselves. Raises ValueError for a
        norm that is zero or not finite: such a step has to be skipped.
        """
        _require(_usable(float(norm)), f"a norm of {norm} is no measurement: skip such a step")
        return self._threshold(float(norm))

    def _threshold(self, norm: float) -> float:
        return math.inf

    def _clip(self, names: list[str], owners: list[Tensor], values: list[Tensor]) -> Step:
        norm = global_norm(values)
        if not _usable(norm):
            return _dropped(norm)
        threshold = self._threshold(norm)
        if self.drops and norm > threshold:
            return Step(norm, threshold, 0.0, f"norm {norm:.3g} is above {threshold:.3g}")
        factor = _factor(norm, threshold, self.eps)
        _scale(values, factor)
        return Step(norm, threshold, factor)


class FixedNorm(NormRule):
    """``norm:V``: one threshold for all steps. ``eps=1e-6`` is what ``clip_grad_norm_`` does."""

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
    """``value:V``: every element is brought into -V to V (``clip_grad_value_``), which changes the direction.

    Of complex gradients, the real and the imaginary part each. ``step.factor`` is that of the largest element.
    """

    name = "value"
    grammar = "value:V (V > 0)"
    traits = frozenset({"element"})

    def __init__(self, value: float, most_skipped: int = 100):
        super().__init__(most_skipped)
        _require(0 < value < math.inf, "the limit must be above 0 and finite")
        self.value = value

    def _clip(self, names: list[str], owners: list[Tensor], values: list[Tensor]) -> Step:
        values = [value for value in values if value.numel()]
        measured = _fetch(_norms(values) + [_largest(value) for value in values])
        norm, largest = math.hypot(*measured[: len(values)]), measured[len(values) :]
        if not _usable(norm):
            return _dropped(norm)
        for value, most in zip(values, largest, strict=True):
            if most > self.value:
                value.clamp_(-self.value, self.value)
        bound = self.value * math.sqrt(sum(value.numel() for value in values))
        return Step(norm, bound, _factor(max(largest), self.value))


class AutoClip(NormRule):
    """``auto:P``: the threshold is the P-th percentile of all norms so far, the present one included.

    By linear interpolation, bit-equal to ``numpy.percentile``. The history is exact and part of the state; P may differ
    between saving and loading. ``window``: only the last so many norms. ``per``: a history and a threshold for each
    ``layer`` or ``tensor`` (section 6 of the paper names both as future work). ``eps=1e-6``: the authors' own code,
    which clips through ``clip_grad_norm_`` and so shrinks gradients of 1e-5 by a tenth, clipped or not.
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
        _require(0 <= percentile <= 100, "the percentile must lie from 0 to 100")
        _require(window is None or (window >= 1 and window == int(window)), "the window must be 1 or more, and whole")
        _require(per in ("all", "layer", "tensor"), "per must be one of all, layer, tensor")
        self.percentile, self.window, self.per, self.eps = percentile, window, per, _checked_eps(eps)
        self.traits = frozenset({"whole" if per == "all" else "group"} | ({"scale-free"} if not eps else set()))
        self._histories: dict[str, History] = {}
        self._parts: dict[str, list[int]] = {}  # steps of each part, and how many of them were clipped

    def observe(self, norm: float) -> float:
        """Take the norm of a step into the history; return its percentile. Not with ``per``."""
        _require(self.per == "all", f"{self!r} has no threshold for the norm of all gradients")
        return super().observe(norm)

    def _threshold(self, norm: float, part: str = "") -> float:
        history = self._histories.get(part)
        if history is None:
            history = self._histories[part] = History(self.window)
        history.add(norm)
        return history.percentile(self.percentile)

    def _clip(self, names: list[str], owners: list[Tensor], values: list[Tensor]) -> Step:
        if self.per == "all":
            return super()._clip(names, owners, values)
        norms = _fetch(_norms(values))
        norm = math.hypot(*norms)
        if not _usable(norm):
            return _dropped(norm)
        steps = {}
        for part, members in self._members(names).items():
            own = math.hypot(*(norms[index] for index in members))
            if own == 0:  # nothing to clip, and no norm for the history
                continue
            threshold = self._threshold(own, part)
            factor = _factor(own, threshold, self.eps)
            _scale([values[index] for index in members], factor)
            steps[part] = Step(own, threshold, factor)
            counts = self._parts.setdefault(part, [0, 0])
            counts[0] += 1
            counts[1] += factor < 1
        threshold = math.hypot(*(step.threshold for step in steps.values()))
        return Step(norm, threshold, min(step.factor for step in steps.values()), parts=steps)

    def _members(self, names: list[str]) -> dict[str, list[int]]:
        """Return the parts that have histories, each with the places of its tensors in ``names``."""
        if self.per == "layer":
            _require_names(names, self)
        members: dict[str, list[int]] = {}
        for index, name in enumerate(_bare(names)):
            members.setdefault(layer_of(name) if self.per == "layer" else name, []).append(index)
        return members

    def shares(self) -> dict[str, float]:
        """Return the share of clipped steps of each layer or tensor, the most clipped first."""
        shares = {part: clipped / steps for part, (steps, clipped) in self._parts.items()}
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def state_dict(self) -> dict[str, Any]:
        """Return the counters and the norms of each part: in their order with a window, sorted without."""
        histories = {part: history.norms() for part, history in self._histories.items()}
        parts = {part: list(counts) for part, counts in self._parts.items()}
        return {**super().state_dict(), "per": self.per, "window": self.window, "histories": histories, "parts": parts}

    def _restore(self, state: dict[str, Any]) -> None:
        # the percentile may be another, the window smaller; but sorted norms have lost their order, and a window what
        # it let go of
        known = state["window"]
        fits = known == self.window or (known and self.window and self.window < known)
        if state["per"] != self.per or not fits:
            raise ValueError(f"the histories of {state['rule']!r} cannot serve {self!r}")
        super()._restore(state)
        self._histories = {part: History(self.window, norms) for part, norms in state["histories"].items()}
        self._parts = {part: list(counts) for part, counts in state["parts"].items()}


class AdaptiveGradientClipping(Rule):
    """``agc:V``: no unit's gradient may be longer than V times its weights (Brock et al. 2021, NFNets, eq. 3).

    A unit is a row of a weight, or a whole tensor of one dimension; weights count as 1e-3 long at least. NFNets leave
    the last linear layer alone: ``but=heads`` leaves out the parameters whose names hold the component ``heads``.
    """

    name = "agc"
    grammar = "agc:V[,but=NAME] (V > 0)"
    traits = frozenset({"group"})
    shortest_weight = 1e-3

    def __init__(self, value: float, but: str = "", most_skipped: int = 100):
        super().__init__(most_skipped)
        _require(0 < value < math.inf, "the ratio must be above 0 and finite")
        self.value, self.but = value, but

    def _clip(self, names: list[str], owners: list[Tensor], values: list[Tensor]) -> Step:
        if self.but:
            _require_names(names, self)
        norms, factors, limits, kept = [], [], [], []
        for name, owner in zip(names, owners, strict=True):
            gradient: Tensor = owner.grad.detach()  # type: ignore[union-attr]
            if gradient.is_sparse or _is_sharded(gradient):
                raise TypeError(f"agc needs whole, dense gradients; that of {name} is sparse or sharded")
            if not gradient.numel():
                continue
            norm = _unit_norms(gradient)
            limit = self.value * _unit_norms(owner.detach()).clamp_min(self.shortest_weight)
            if self.but and self.but in name.split("."):
                limit = torch.full_like(limit, math.inf)
            kept.append(gradient)
            norms.append(torch.linalg.vector_norm(norm))
            limits.append(torch.linalg.vector_norm(limit))
            factors.append(torch.where(norm > limit, limit / norm, torch.ones_like(norm)))
        measured = _fetch([*norms, *limits, *(factor.amin() for factor in factors)])
        length, bound, smallest = (measured[third * len(kept) :][: len(kept)] for third in range(3))
        total = math.hypot(*length)
        if not _usable(total):
            return _dropped(total)
        for gradient, factor, least in zip(kept, factors, smallest, strict=True):
            if least < 1:
                gradient.mul_(factor)
        return Step(total, math.hypot(*bound), min(smallest))


class Moving(NormRule):
    """Frame of the rules with a moving mean and variance: plain ones over ``warmup`` steps, exponential ones after."""

    memory = ("seen", "mean", "variance")

    def __init__(self, value: float, decay: float, warmup: int, most_skipped: int):
        super().__init__(most_skipped)
        _require(0 < value < math.inf, "the value must be above 0 and finite")
        _require(0 < decay < 1, "decay must lie between 0 and 1")
        _require(warmup >= 2, "warmup must be 2 steps or more")
        self.value, self.decay, self.warmup = value, decay, warmup
        self.seen, self.mean, self.variance = 0, 0.0, 0.0

    def _learn(self, number: float) -> None:
        self.seen += 1
        if self.seen <= self.warmup:  # Welford's sums, as mean and variance
            before = self.mean
            self.mean += (number - before) / self.seen
            self.variance += ((number - before) * (number - self.mean) - self.variance) / self.seen
        else:
            self.mean += (1 - self.decay) * (number - self.mean)  # so that equal numbers leave it as it is
            self.variance += (1 - self.decay) * ((number - self.mean) ** 2 - self.variance)


class ZClip(Moving):
    """``zclip:Z``: a norm more than Z deviations above the moving mean comes down to mean + (Z deviation)^2 / excess.

    The excess is norm - mean; what is learned is the norm after that (Kumar et al. 2025, "ZClip"). Its authors' own
    code adds a fixed ``cap=1``, which is off here: it suits norms near 1 only.
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
        reach = self.value * math.sqrt(self.variance)
        threshold = self.mean + reach if self.seen >= self.warmup else math.inf
        if norm > threshold:
            threshold = self.mean + reach**2 / (norm - self.mean)
        self._learn(min(norm, threshold))
        return min(threshold, self.cap)


class LogSigma(Moving):
    """``logsigma:K``: a step whose log norm is more than K deviations above the moving mean is dropped whole.

    Chen et al. 2018, "The Best of Both Worlds": 4 deviations; they state neither the decay nor whether
    dropped norms count. Here they do, so that a lasting rise is soon normal and training cannot stand still.
    """

    name = "logsigma"
    grammar = "logsigma:K[,decay=D][,warmup=N] (K > 0)"
    drops = True

    def __init__(self, value: float, decay: float = 0.99, warmup: int = 100, most_skipped: int = 100):
        super().__init__(value, decay, warmup, most_skipped)

    def _threshold(self, norm: float) -> float:
        limit = self.mean + self.value * math.sqrt(self.variance) + 1e-12  # exp(log(norm)) may be the next number
        threshold = math.exp(min(limit, 700.0)) if self.seen >= self.warmup else math.inf
        self._learn(math.log(norm))
        return threshold


class Pascanu(NormRule):
    """``pascanu:M``: no clipping for ``warmup`` steps, then a fixed threshold: M times their mean norm.

    Pascanu et al. 2013, section 3.2, who speak of half to ten times the average.
    """

    name = "pascanu"
    grammar = "pascanu:M[,warmup=K] (M > 0)"
    memory = ("seen", "total")

    def __init__(self, value: float, warmup: int = 1000, most_skipped: int = 100):
        super().__init__(most_skipped)
        _require(0 < value < math.inf, "the multiple must be above 0 and finite")
        _require(warmup >= 1, "warmup must be 1 step or more")
        self.value, self.warmup = value, warmup
        self.seen, self.total = 0, 0.0

    def _threshold(self, norm: float) -> float:
        if self.seen >= self.warmup:
            return self.value * self.total / self.seen
        self.seen += 1
        self.total += norm
        return math.inf


RULES: dict[str, type[Rule]] = {
    rule.name: rule
    for rule in (
        NormRule, FixedNorm, FixedValue, AutoClip, AdaptiveGradientClipping, ZClip, Pascanu, LogSigma,
    )
}  # fmt: skip
GRAMMAR = "; ".join(rule.grammar for rule in RULES.values())


def parse(text: str) -> Rule:
    """Make a rule from its name, value and options, such as ``"auto:10"`` or ``"auto:10,window=1000,per=layer"``.

    Every rule takes ``most_skipped=N`` (steps in a row, 100). Raises ValueError, which says what is allowed, for
    anything that is no rule.
    """
    first, *options = (part.strip() for part in text.split(","))
    name, colon, value = first.partition(":")
    try:
        if name not in RULES:
            meant = re.fullmatch(r"([a-z]+)[ =]?(\d[\d.]*)", first.lower())
            raise ValueError(
                "no such name" + (f"; did you mean {meant[1]}:{meant[2]}?" if meant and meant[1] in RULES else "")
            )
        settings = _settings(RULES[name])
        required = [key for key, setting in settings.items() if setting.default is setting.empty]
        if bool(colon) != bool(required):
            raise ValueError("it needs a value" if required else "it takes no value")
        given = dict(zip(required, [value], strict=False))
        for option in options:
            key, _, value = option.partition("=")
            if key not in settings or key in given:
                raise ValueError(f"{key} is given twice" if key in given else f"there is no option {key!r}")
            given[key] = value
        return RULES[name](**{key: _read(settings[key].annotation, value, key) for key, value in given.items()})
    except ValueError as error:
        allowed = RULES[name].grammar if name in RULES else GRAMMAR
        raise ValueError(f"{text!r} is no clipping rule ({error}): write {allowed}") from error


def global_norm(gradients: list[Tensor]) -> float:
    """Return the 2-norm of all gradients together, summed over tensors in float64; 0 where there are none."""
    return math.hypot(*_fetch(_norms(gradients)))


def layer_of(name: str) -> str:
    """Return the layer of a parameter: its module, and of a torch RNN the layer with both its directions.

    ``"heads.mask.bias"`` gives ``"heads.mask"``, ``"lstm.weight_hh_l1_reverse"`` gives ``"lstm.l1"``.
    """
    module, _, leaf = name.rpartition(".")
    layer = re.search(r"_(l\d+)(_reverse)?$", leaf)
    return ".".join(filter(None, (module, layer[1]))) if layer else module or leaf


class History:
    """All norms so far, or the last ``window`` of them, ready for any percentile in a few microseconds.

    Sorted, in blocks, so that an insertion moves one block only: 8 bytes a norm, and 8 more for the order in a window.
    """

    _FULL = 2048  # norms of a block before it is halved

    def __init__(self, window: int | None = None, norms: Iterable[float] = ()):
        known = array("d", norms)[-window:] if window else array("d", norms)
        self._window = window
        self._order = known if window else array("d")  # a ring, once it is full
        self._next = 0  # place in the ring
        ordered, half = sorted(known), self._FULL // 2
        self._blocks = [array("d", ordered[i : i + half]) for i in range(0, len(ordered), half)] or [array("d")]
        self._starts = [-math.inf, *(block[0] for block in self._blocks[1:])]  # no block holds less than its start
        self._count = len(ordered)
        self._at, self._before = 0, 0  # the block of the last percentile, and the norms before it: the next is near

    def __len__(self) -> int:
        return self._count

    def norms(self) -> list[float]:
        """Return the norms: oldest first with a window, else sorted."""
        if self._window:
            return [*self._order[self._next :], *self._order[: self._next]]
        return [norm for block in self._blocks for norm in block]

    def add(self, norm: float) -> None:
        """Insert a norm, and with a full window let go of the oldest."""
        if self._window and self._count == self._window:
            self._remove(self._order[self._next])
            self._order[self._next] = norm
            self._next = (self._next + 1) % self._window
        elif self._window:
            self._order.append(norm)
        index = bisect_right(self._starts, norm) - 1
        block = self._blocks[index]
        insort(block, norm)
        self._count += 1
        self._before += index < self._at
        if len(block) == self._FULL:
            upper = block[self._FULL // 2 :]
            del block[self._FULL // 2 :]
            self._blocks.insert(index + 1, upper)
            self._starts.insert(index + 1, upper[0])
            self._at += index < self._at

    def _remove(self, norm: float) -> None:
        index = bisect_right(self._starts, norm) - 1
        while True:  # equal norms can lie in the block before
            block = self._blocks[index]
            place = bisect_left(block, norm)
            if place < len(block) and block[place] == norm:
                break
            index -= 1
        del block[place]
        self._count -= 1
        self._before -= index < self._at
        if not block and len(self._blocks) > 1:
            del self._blocks[index], self._starts[index]
            self._starts[0] = -math.inf
            self._at, self._before = 0, 0

    def percentile(self, percentile: float) -> float:
        """Return the percentile by linear interpolation, bit-equal to ``numpy.percentile``."""
        if not self._count:
            raise ValueError("there is no percentile of no norms")
        position = (percentile / 100) * (self._count - 1)
        low = math.floor(position)
        share = position - low
        above = self._nth(min(low + 1, self._count - 1))
        below = self._nth(low)
        if share < 0.5:
            return below + (above - below) * share
        return above - (above - below) * (1 - share)

    def _nth(self, rank: int) -> float:
        while rank < self._before:
            self._at -= 1
            self._before -= len(self._blocks[self._at])
        while rank >= self._before + len(self._blocks[self._at]):
            self._before += len(self._blocks[self._at])
            self._at += 1
        return self._blocks[self._at][rank - self._before]


_WRAPPER = re.compile(r"(^|(?<=\.))(_orig_mod|_checkpoint_wrapped_module)\.")  # torch.compile, activation checkpoints
_SHARDED = {"_fsdp_flattened", "ds_id"}  # marks of the parameters of FSDP's first version, and of DeepSpeed's ZeRO-3
_LOW = (torch.float16, torch.bfloat16)
_UNNAMED = "#"


def _named(parameters: Parameters) -> Iterable[tuple[str, Tensor]]:
    if isinstance(parameters, torch.nn.Module):
        parameters = parameters.named_parameters()
    if isinstance(parameters, Tensor):
        parameters = [parameters]
    for index, entry in enumerate(parameters):
        yield entry if isinstance(entry, tuple) else (f"{_UNNAMED}{index}", entry)


def _bare(names: list[str]) -> list[str]:
    """Return the names without what wrappers put into them, so that a run may be resumed with others."""
    names = [_WRAPPER.sub("", name) for name in names]
    while all(name.startswith("module.") for name in names):  # DistributedDataParallel; some models have a `module` too
        names = [name.removeprefix("module.") for name in names]
    return names


def _require_names(names: list[str], rule: Rule) -> None:
    unnamed = any(name.startswith(_UNNAMED) for name in names)
    _require(not unnamed, f"{rule!r} needs names: call it with model.named_parameters()")


def _values(name: str, owner: Tensor) -> Tensor:
    """Return the gradient of ``owner`` as a dense real tensor that shares its memory."""
    if not _SHARDED.isdisjoint(owner.__dict__):
        raise TypeError(
            f"the gradient of {name} is a shard, whose norm is not that of the whole: use fully_shard (FSDP2), or the "
            "trainer's own clipping"
        )
    values: Tensor = owner.grad.detach()  # type: ignore[union-attr]  # clipping is no part of a graph
    if values.layout is not torch.strided:
        if values.layout is not torch.sparse_coo:
            raise TypeError(f"the gradient of {name} is {values.layout}: only torch.sparse_coo is known")
        if not values.is_coalesced():
            owner.grad = values = values.coalesce()  # the same element may stand in it several times
        values = values._values()
    if values.is_complex():  # the sign of the imaginary part is no matter
        values = torch.view_as_real(values.conj() if values.is_conj() else values)
    return values


def _norms(values: list[Tensor]) -> list[Tensor]:
    """Return the norm of each tensor as a tensor; of low precisions in float32, or it would be as coarse as they."""
    kinds = {(type(value), value.dtype) for value in values}
    if len(kinds) == 1 and values[0].dtype not in _LOW:
        return list(torch._foreach_norm(values))
    return [torch.linalg.vector_norm(value, dtype=torch.float32 if value.dtype in _LOW else None) for value in values]


def _scale(values: list[Tensor], factor: float) -> None:
    """Multiply in place, unless by 1; one by one where some are sharded and others not, which torch takes only so."""
    if factor < 1 and len(set(map(type, values))) == 1:
        torch._foreach_mul_(values, factor)
    elif factor < 1:
        for value in values:
            value.mul_(factor)


def _largest(value: Tensor) -> Tensor:
    """Return the largest absolute element as a tensor; 30 times as fast on a CPU as the norm of order inf."""
    low, high = torch.aminmax(value)
    return torch.maximum(-low, high)


def _unit_norms(tensor: Tensor) -> Tensor:
    """Return the norm of each row with the rows' axis kept, or of the whole where there is but one dimension."""
    dims = tuple(range(1 if tensor.dim() > 1 else 0, tensor.dim()))
    precision = torch.float32 if tensor.dtype in _LOW else None
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=dims, keepdim=True, dtype=precision)
    return norms


def _fetch(scalars: list[Tensor]) -> list[float]:
    """Return tensors of one number as numbers, with one transfer from each device; of sharded ones, the whole's."""
    if len({(type(scalar), scalar.device) for scalar in scalars}) == 1 and type(scalars[0]) is Tensor:
        found: list[float] = torch.stack(scalars).tolist()
        return found
    groups: dict[object, list[int]] = {}
    for index, scalar in enumerate(scalars):
        where = (scalar.device_mesh, scalar.placements) if _is_sharded(scalar) else ()  # type: ignore[attr-defined]
        groups.setdefault((scalar.device, where), []).append(index)
    numbers = [0.0] * len(scalars)
    for indices in groups.values():
        stacked = torch.stack([scalars[index] for index in indices])
        whole = stacked.full_tensor() if _is_sharded(stacked) else stacked  # type: ignore[attr-defined]
        for index, number in zip(indices, whole.tolist(), strict=True):
            numbers[index] = number
    return numbers


def _is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, of FSDP2 or tensor parallelism; without importing them."""
    return type(tensor) is not Tensor and hasattr(tensor, "full_tensor")


def _usable(norm: float) -> bool:
    return 0 < norm < math.inf


def _dropped(norm: float) -> Step:
    return Step(norm, math.nan, 0.0, "gradient is zero" if norm == 0 else "gradient is not finite")


def _require(allowed: object, message: str) -> None:
    if not allowed:
        raise ValueError(message)


def _checked_eps(eps: float) -> float:
    _require(0 <= eps < math.inf, "eps must be 0 or more, and finite")
    return eps


def _factor(norm: float, threshold: float, eps: float = 0.0) -> float:
    """Return what brings ``norm`` to ``threshold``, at most 1; ``eps`` is added to the norm as torch does."""
    if eps:
        return min(1.0, threshold / (norm + eps))
    return 1.0 if norm <= threshold else threshold / norm


def _settings(rule: type[Rule]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(rule).parameters


def _read(kind: Any, text: str, key: str) -> Any:
    """Read an option as the type that the rule's signature gives."""
    choices = get_args(kind)
    if str in map(type, choices):
        if text not in choices:
            raise ValueError(f"{key} must be one of {', '.join(choices)}")
        return text
    kind = choices[0] if choices else kind
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{key} must be {'a whole number' if kind is int else 'a number'}, not {text!r}") from None


def _written(value: object) -> str:
    return str(value).removesuffix(".0")
