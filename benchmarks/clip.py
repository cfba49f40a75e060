"""Measure the cost of clipping: the history by its length, and the whole rule on the gradients of two networks.

    python benchmarks/clip.py [--rounds 7] [--json FILE]

The arms take turns, and ratios are computed within a round. "snippet" is the authors' published method, rewritten from
the paper's description: the norm by ``.item()`` of every tensor, the history as a list, ``numpy.percentile`` of it,
then ``clip_grad_norm_``. The packages ``autoclip``, ``smartclip`` and ``zclip`` are measured if they are installed:
create an environment for them (``pip install numpy torch autoclip smartclip zclip``) and run this script in it with
``PYTHONPATH`` set to the clone: clip.py needs nothing else from sepclip.
"""

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

if importlib.util.find_spec("sepclip"):
    from sepclip.clip import History, global_norm, parse
else:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from sepclip.clip import History, global_norm, parse

LENGTHS = [100, 1_000, 10_000, 70_000, 1_000_000]
NETWORKS = {"2x300": (2, 300), "4x600": (4, 600)}
PERCENTILE = 10


def recorded(count: int) -> list[float]:
    """Return norms like those of a training: log-normal around a slow rise and fall."""
    chance = np.random.default_rng(0)
    return np.exp(np.sin(np.arange(count) / 5000) - 8 + chance.normal(0, 0.5, count)).tolist()


class Snippet:
    """The authors' algorithm as they published it."""

    def __init__(self, norms: list[float] = ()):  # type: ignore[assignment]
        self.history = list(norms)

    def threshold(self, norm: float) -> float:
        self.history.append(norm)
        return float(np.percentile(self.history, PERCENTILE))

    def __call__(self, parameters: list[torch.nn.Parameter]) -> None:
        total = sum(p.grad.norm(2).item() ** 2 for p in parameters if p.grad is not None) ** 0.5
        torch.nn.utils.clip_grad_norm_(parameters, self.threshold(total))


def timed(work: Callable[[], object], repeats: int) -> float:
    """Return the mean seconds of one call over the faster half of the repeats."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return sum(sorted(taken)[: max(1, repeats // 2)]) / max(1, repeats // 2)


def span(values: list[float], digits: int = 2) -> str:
    return f"{median(values):.{digits}f} [{min(values):.{digits}f}..{max(values):.{digits}f}]"


def history_costs(rounds: int) -> list[dict[str, object]]:
    rows = []
    for length in LENGTHS:
        norms, more = recorded(length), iter(recorded(1_000_000)[::-1])
        arms = {"snippet": Snippet(norms), "whole": History(None, norms), "window": History(length, norms)}

        def step(name: str, arms: dict[str, object] = arms, more: object = more) -> None:
            norm, arm = next(more), arms[name]  # type: ignore[call-overload]
            if isinstance(arm, Snippet):
                arm.threshold(norm)
            else:
                arm.add(norm)  # type: ignore[attr-defined]
                arm.percentile(PERCENTILE)  # type: ignore[attr-defined]

        taken: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(rounds):
            for name in arms:
                repeats = 6 if name == "snippet" else 400
                taken[name].append(1e6 * timed(lambda n=name: step(n), repeats))
        ratio = [s / w for s, w in zip(taken["snippet"], taken["whole"], strict=True)]
        rows.append({"length": length, **taken, "ratio": ratio})
        print(
            f"{length:>9,} norms: snippet {span(taken['snippet'], 0)} us, whole history {span(taken['whole'])} us, "
            f"window {span(taken['window'])} us, snippet/whole {span(ratio, 0)}"
        )
    return rows


def network(layers: int, hidden: int) -> list[torch.nn.Parameter]:
    """Return the parameters of the chimera network of METHOD 1.9, with gradients."""
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(129, hidden, layers, bidirectional=True)
    heads = [torch.nn.Linear(2 * hidden, 129 * outputs) for outputs in (2, 20)]
    parameters = [*lstm.parameters(), *heads[0].parameters(), *heads[1].parameters()]
    for parameter in parameters:
        parameter.grad = 1e-4 * torch.randn_like(parameter)
    return parameters


def peers(parameters: list[torch.nn.Parameter]) -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {}
    if importlib.util.find_spec("autoclip"):
        from autoclip.torch import QuantileClip

        clipper = QuantileClip(parameters, quantile=PERCENTILE / 100, history_length=1000, global_threshold=True)
        found["autoclip 0.2.1, window 1000"] = clipper.step
    model = torch.nn.Module()
    for index, parameter in enumerate(parameters):
        model.register_parameter(f"p{index}", parameter)
    if importlib.util.find_spec("smartclip"):
        import smartclip

        smart = smartclip.AutoClip()
        for _ in range(150):  # more than its warm-up
            smartclip.apply(model, smart)
        found["smartclip 0.1.1, median + 3 sigma"] = lambda: smartclip.apply(model, smart)
    if importlib.util.find_spec("zclip"):
        from zclip import ZClip

        zclip = ZClip()
        found["zclip 1.0.0 (clips, by its fixed cap)"] = lambda: zclip.step(model)
    return found


def all_arms(parameters: list[torch.nn.Parameter], norm: float) -> dict[str, Callable[[], object]]:
    named = [(f"layer{index // 4}.w{index}", p) for index, p in enumerate(parameters)]
    norms = (np.sort(recorded(70_000)) / recorded(1)[0] * norm).tolist()
    snippet = Snippet(norms)

    def rule(text: str) -> Callable[[], object]:
        clip = parse(text)
        if text in ("auto:0", "auto:100"):
            clip.load_state_dict({**clip.state_dict(), "histories": {"": norms}})
        return lambda: clip(named)

    return {
        "clip_grad_norm_ that clips": lambda: torch.nn.utils.clip_grad_norm_(parameters, norm / 2),
        "one pass of norms": lambda: (
            torch.stack(torch._foreach_norm([p.grad for p in parameters if p.grad is not None])).norm().item()
        ),
        "auto:100 (never clips)": rule("auto:100"),
        "auto:0 (clips)": rule("auto:0"),
        **{text: rule(text) for text in ("auto:10,per=layer", "auto:10,per=tensor", "zclip:2.5", "pascanu:5")},
        "value:1e-5 (clips)": rule("value:1e-5"),
        "agc:1e-4 (clips)": rule("agc:1e-4"),
        "snippet (clips)": lambda: snippet(parameters),
        **peers(parameters),
    }


def rule_costs(rounds: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name, (layers, hidden) in NETWORKS.items():
        parameters = network(layers, hidden)
        kept = [p.grad.clone() for p in parameters if p.grad is not None]
        arms = all_arms(parameters, global_norm(kept))
        taken: dict[str, list[float]] = {arm: [] for arm in arms}
        for _ in range(rounds):
            for arm, work in arms.items():
                spent = []
                for _ in range(8):
                    for parameter, value in zip(parameters, kept, strict=True):
                        parameter.grad = value.clone()  # a rule may set it to None
                    began = time.perf_counter()
                    work()
                    spent.append(time.perf_counter() - began)
                taken[arm].append(1e3 * sum(sorted(spent)[:4]) / 4)
        base, passes = taken["clip_grad_norm_ that clips"], taken["one pass of norms"]
        print(f"\n{name}: {sum(p.numel() for p in parameters) / 1e6:.1f} M values in {len(parameters)} tensors")
        for arm, values in taken.items():
            ratios = [v / b for v, b in zip(values, base, strict=True)]
            over = [v / p for v, p in zip(values, passes, strict=True)]
            rows.append({"network": name, "arm": arm, "ms": values, "to_clip_grad_norm_": ratios, "to_norms": over})
            print(
                f"  {arm:<36} {span(values)} ms, to clip_grad_norm_ {span(ratios)}, to one pass of norms {span(over)}"
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help="threads of torch (default: all cores)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    result = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    result |= {"history_us": history_costs(options.rounds), "rule": rule_costs(options.rounds)}
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
