"""Plot the threshold of every clip rule over the gradient norms of one real run, and print the share that it clips.

    sepclip train MIXTURES --run RUN --config demo --steps 1000 --set train.log_every=1
    python benchmarks/thresholds.py RUN docs/thresholds.png

Also prints the share of steps that ``auto:10`` clips if norms stay the same, rise or fall. Rules for single elements or
rows (value, agc) or for layers have no threshold for the norm of all gradients and are not drawn.
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from sepclip.clip import NormRule, parse

RULES = ["auto:10", "auto:50", "auto:80,window=100", "norm:2e-05", "pascanu:1,warmup=100", "zclip:2.5", "logsigma:4"]
COLOURS = ["#0072B2", "#56B4E9", "#009E73", "#000000", "#E69F00", "#CC79A7", "#D55E00"]  # Okabe and Ito


def observed(text: str, norms: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the thresholds of a rule and the share of steps above them."""
    rule = parse(text)
    assert isinstance(rule, NormRule)
    thresholds = np.array([rule.observe(norm) for norm in norms.tolist()])
    return thresholds, float((norms > thresholds).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    rows = [json.loads(line) for line in (options.run / "metrics.jsonl").read_text().splitlines()]
    norms = np.array([row["grad_norm"] for row in rows if row.get("grad_norm")])
    mpl.rcParams.update({"font.size": 9, "savefig.dpi": 120})
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    steps = np.arange(1, len(norms) + 1)
    axes.plot(steps, norms, ".", color="#BBBBBB", markersize=2.5, label="gradient norm", zorder=0)
    print(f"{len(norms)} steps of {options.run}")
    for text, colour in zip(RULES, COLOURS, strict=True):
        thresholds, share = observed(text, norms)
        acted = "dropped" if text.startswith("logsigma") else "clipped"
        print(f"  {text:<22} {acted} {share:.1%}")
        axes.plot(steps, thresholds, color=colour, linewidth=1.4, label=f"{text} ({share:.0%} {acted})")
    axes.set(yscale="log", xlabel="step", ylabel="norm", xlim=(0, len(norms)))
    axes.set_ylim(1.5e-5, norms.max() * 2)  # include the fixed threshold
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(options.picture)

    chance = np.random.default_rng(0)
    print("share that auto:10 clips of 4000 log-normal norms, 20 draws")
    for name, course in {"that stay": 0.0, "that rise tenfold": 1.0, "that fall to a tenth": -1.0}.items():
        trend = 10 ** (course * np.linspace(0, 1, 4000))
        shares = [observed("auto:10", trend * chance.lognormal(0, 0.5, 4000))[1] for _ in range(20)]
        print(f"  {name:<22} {np.mean(shares):.1%} [{min(shares):.1%}..{max(shares):.1%}]")


if __name__ == "__main__":
    main()
