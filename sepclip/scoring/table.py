"""The table of metrics and the table of oracles, with the definitions that every result quotes.

The command line reads it for ``--help``, so it imports nothing heavy. The families of ``METRICS`` are computed in
``ratios.py`` (``ratios``), ``engines.py`` (``v4`` and ``v3``) and ``perceptual.py`` (``perceptual``). To add a metric,
add its entry to ``METRICS`` with the family ``function`` and the function that computes it; it joins the default
metrics. Wrap a function with heavy imports in a small one that imports it when it is called.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sepclip.errors import UserError

PERFECT_DB = 200.0  # beyond this, float64 rounding decides the score
FILTERED_DB = 150.0  # the same limit for scores with the filters of BSSEval
MEMORY_RULE = (  # for the help; engines.memory_needed computes it
    "scoring a file takes 0.2 GiB, plus 80 to 170 bytes (museval, which rounds the length up to a power of two) or 28 "
    "bytes (fast engine) per sample of every source and channel; as many files are scored at a time as fit"
)


@dataclass(frozen=True)
class Metric:
    """The definition of one score of one source of one file.

    ``family``: what computes it (``ratios``, ``v4``, ``v3``, ``perceptual``), or ``function``: then
    ``function(est=, ref=, rate_hz=)`` scores waves (T, C), or raises ValueError with a reason. ``improves``: whether
    the score minus that of the mixture is reported too; a mixture has no artefacts, so for the SARs it would
    mean nothing. ``infinite_above``: scores above it count as infinite. ``infinite_is_perfect``: an infinite score
    means a perfect estimate.
    """

    title: str
    definition: str
    family: str
    unit: str = "dB"
    improves: bool = True
    infinite_above: float = PERFECT_DB
    infinite_is_perfect: bool = False
    function: Callable[..., float] | None = None


def _v4(title: str, what: str, *, improves: bool = True, infinite_is_perfect: bool = False) -> Metric:
    """Return a metric of BSSEval v4; ``what`` is the ratio in words."""
    definition = (
        f"{what}: BSSEval v4 as museval, 512-tap filters of the whole file, windows of 1 s without overlap, median "
        f"over the windows in which all sources sound"
    )
    return Metric(
        title, definition, "v4", improves=improves, infinite_above=FILTERED_DB, infinite_is_perfect=infinite_is_perfect
    )


def _v3(title: str, what: str, *, improves: bool = True, infinite_is_perfect: bool = False) -> Metric:
    """Return a metric of BSSEval v3; ``what`` is the ratio in words."""
    definition = f"{what}: BSSEval v3 sources, whole file, 512-tap filters allowed (as mir_eval's bss_eval_sources)"
    return Metric(
        title, definition, "v3", improves=improves, infinite_above=FILTERED_DB, infinite_is_perfect=infinite_is_perfect
    )


METRICS: dict[str, Metric] = {
    "si_sdr": Metric(
        "SI-SDR",
        "scale-invariant SDR of the whole file, means removed (Le Roux et al. 2019): blind to gain and sign",
        "ratios",
        infinite_is_perfect=True,
    ),
    "si_sir": Metric("SI-SIR", "scale-invariant SIR (Le Roux et al. 2019): other sources, no filters", "ratios"),
    "si_sar": Metric(
        "SI-SAR", "scale-invariant SAR (Le Roux et al. 2019): what no sum of sources explains", "ratios", improves=False
    ),
    "snr": Metric(
        "SNR",
        "energy of the source over that of the error, whole file: gain and sign count",
        "ratios",
        infinite_is_perfect=True,
    ),
    "sd_sdr": Metric(
        "SD-SDR",
        "scale-dependent SDR of the whole file (Le Roux et al. 2019): SNR plus 20 log10 of the gain, so that a lower "
        "gain costs twice",
        "ratios",
        infinite_is_perfect=True,
    ),
    "sdr": _v4("SDR", "source to distortion ratio", infinite_is_perfect=True),
    "isr": _v4("ISR", "image to spatial distortion ratio"),
    "sir": _v4("SIR", "source to interference ratio"),
    "sar": _v4("SAR", "source to artefacts ratio", improves=False),
    "bss_sdr": _v3("SDR v3", "source to distortion ratio", infinite_is_perfect=True),
    "bss_sir": _v3("SIR v3", "source to interference ratio"),
    "bss_sar": _v3("SAR v3", "source to artefacts ratio", improves=False),
    "pesq": Metric(
        "PESQ",
        "ITU-T P.862 by the package pesq: narrow band at 8 kHz (P.862.1), else wide band at 16 kHz (P.862.2), mean "
        "over channels",
        "perceptual",
        unit="MOS-LQO",
    ),
    "estoi": Metric(
        "ESTOI",
        "extended short-time objective intelligibility (Jensen and Taal 2016) by the steps of the package pystoi, with "
        "a fixed generator, mean over channels",
        "perceptual",
        unit="-1 to 1",
    ),
}
DEFAULT_METRICS = tuple(name for name, metric in METRICS.items() if metric.family != "perceptual")
# Ideal masks, from the true sources; whatever else is in the mixture counts as one more source
ORACLES = {  # name: (title, definition)
    "ibm": ("IBM", "ideal binary mask: each bin to its loudest source"),
    "irm": ("IRM", "ideal ratio mask |S| / sum |S|"),
    "wiener": ("Wiener", "Wiener-like mask |S|^2 / sum |S|^2"),
    "psm": ("PSM", "phase-sensitive mask |S| cos(angle S - angle X) / |X|"),
    "tpsm": ("tPSM", "phase-sensitive mask, cut to 0 to 1"),
}


def select_names(text: str | None, table: Sequence[str], default: Sequence[str], option: str) -> tuple[str, ...]:
    """Return the names that ``text`` selects ("a,b", "all", "none", or None for the default), in the table's order.

    Raises UserError, which names the ``option``, for a name that is not in the table.
    """
    if text is None or text == "default":
        return tuple(default)
    if text in ("all", "none"):
        return tuple(table) if text == "all" else ()
    names = {name.strip() for name in text.split(",") if name.strip()}
    unknown = sorted(names - set(table))
    if unknown or not names:
        raise UserError(f"--{option} {text!r}: choose from {', '.join(table)}, with commas between, or all")
    return tuple(name for name in table if name in names)


def columns(
    metrics: Sequence[str], oracles: Sequence[str], improvements: bool = True
) -> dict[str, tuple[str, str, str]]:
    """Return the title, definition and unit of every column of scores, in the order in which they are written."""
    result = {"input_snr": ("input SNR", "SNR of the unprocessed mixture", "dB")} if "snr" in metrics else {}
    for name in metrics:
        metric = METRICS[name]
        result[name] = (metric.title, metric.definition, metric.unit)
        if metric.improves and improvements:
            title = f"{metric.title}i"
            result[f"{name}_improvement"] = (title, f"{metric.title} minus that of the mixture", metric.unit)
    for oracle in oracles:
        title, definition = ORACLES[oracle]
        for name in ("si_sdr", "sdr"):
            if name in metrics:
                words = (
                    f"{METRICS[name].title} improvement of the {definition}, in the transform of the run, else of 32 ms"
                )
                result[f"{oracle}_{name}_improvement"] = (f"{title} {METRICS[name].title}i", words, "dB")
    return result
