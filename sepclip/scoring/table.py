"""What can be scored: the one table of metrics and oracles, with their definitions. Imports nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass

from sepclip.errors import UserError

PERFECT_DB = 200.0  # float64 tells nothing beyond
FILTERED_DB = 150.0  # nor the filters of BSSEval beyond this: rounding decides
RULE = (  # scoring/engines.py computes it
    "a file is counted with 0.2 GiB, and by museval with 80 to 170 bytes for each sample of all sources and channels "
    "(its length is rounded up to a power of two), by the fast engine with 28; files are scored at a time as far as "
    "the memory goes"
)


@dataclass(frozen=True)
class Metric:
    """One score of one source of one file.

    ``family``: what computes it (``ratios``, ``v4``, ``v3``, ``perceptual``). ``improves``: whether the score minus
    that of the unprocessed mixture is given too; a mixture has no artefacts, so for the SARs it would say nothing.
    ``infinite``: scores above count as infinite. ``distortion``: infinite means a perfect estimate.
    """

    title: str
    definition: str
    family: str
    unit: str = "dB"
    improves: bool = True
    infinite: float = PERFECT_DB
    distortion: bool = False


def _v4(title: str, what: str, *, improves: bool = True, distortion: bool = False) -> Metric:
    definition = (
        f"{what}: BSSEval v4 as museval, 512-tap filters of the whole file, windows of 1 s without overlap, median "
        f"over the windows in which all sources sound"
    )
    return Metric(title, definition, "v4", improves=improves, infinite=FILTERED_DB, distortion=distortion)


def _v3(title: str, what: str, *, improves: bool = True, distortion: bool = False) -> Metric:
    definition = f"{what}: BSSEval v3 sources, whole file, 512-tap filters allowed (as mir_eval's bss_eval_sources)"
    return Metric(title, definition, "v3", improves=improves, infinite=FILTERED_DB, distortion=distortion)


METRICS: dict[str, Metric] = {
    "si_sdr": Metric(
        "SI-SDR",
        "scale-invariant SDR of the whole file, means removed (Le Roux et al. 2019): blind to gain and sign",
        "ratios",
        distortion=True,
    ),
    "si_sir": Metric("SI-SIR", "scale-invariant SIR (Le Roux et al. 2019): other sources, no filters", "ratios"),
    "si_sar": Metric(
        "SI-SAR", "scale-invariant SAR (Le Roux et al. 2019): what no sum of sources explains", "ratios", improves=False
    ),
    "snr": Metric(
        "SNR", "energy of the source over that of the error, whole file: gain and sign count", "ratios", distortion=True
    ),
    "sd_sdr": Metric(
        "SD-SDR",
        "scale-dependent SDR of the whole file (Le Roux et al. 2019): SNR plus 20 log10 of the gain, so that a lower "
        "gain costs twice",
        "ratios",
        distortion=True,
    ),
    "sdr": _v4("SDR", "source to distortion ratio", distortion=True),
    "isr": _v4("ISR", "image to spatial distortion ratio"),
    "sir": _v4("SIR", "source to interference ratio"),
    "sar": _v4("SAR", "source to artefacts ratio", improves=False),
    "bss_sdr": _v3("SDR v3", "source to distortion ratio", distortion=True),
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
        "extended short-time objective intelligibility (Jensen and Taal 2016) by the package pystoi, mean over "
        "channels",
        "perceptual",
        unit="0 to 1",
    ),
}
DEFAULT = tuple(name for name, metric in METRICS.items() if metric.family != "perceptual")
ORACLES = {  # masks of the true sources, what the mixture holds beside them counting as one source more
    "ibm": ("IBM", "ideal binary mask: each bin to its loudest source"),
    "irm": ("IRM", "ideal ratio mask |S| / sum |S|"),
    "wiener": ("Wiener", "Wiener-like mask |S|^2 / sum |S|^2"),
    "psm": ("PSM", "phase-sensitive mask |S| cos(angle S - angle X) / |X|"),
    "tpsm": ("tPSM", "phase-sensitive mask, cut to 0 to 1"),
}


def chosen(words: str | None, table: Sequence[str], default: Sequence[str], what: str) -> tuple[str, ...]:
    """Return the names that ``words`` ("a,b", "all", "none" or None for the default) choose, in the table's order.

    Raises UserError for a name that is not in the table.
    """
    if words is None or words == "default":
        return tuple(default)
    if words in ("all", "none"):
        return tuple(table) if words == "all" else ()
    names = {word.strip() for word in words.split(",") if word.strip()}
    unknown = sorted(names - set(table))
    if unknown or not names:
        raise UserError(f"--{what} {words!r}: choose from {', '.join(table)}, with commas between, or all")
    return tuple(name for name in table if name in names)


def columns(
    metrics: Sequence[str], oracles: Sequence[str], improvements: bool = True
) -> dict[str, tuple[str, str, str]]:
    """Return the title, definition and unit of every column of scores, in their order."""
    found = {"input_snr": ("input SNR", "SNR of the unprocessed mixture", "dB")} if "snr" in metrics else {}
    for name in metrics:
        metric = METRICS[name]
        found[name] = (metric.title, metric.definition, metric.unit)
        if metric.improves and improvements:
            title = f"{metric.title}i"
            found[f"{name}_improvement"] = (title, f"{metric.title} minus that of the mixture", metric.unit)
    for oracle in oracles:
        title, definition = ORACLES[oracle]
        for name in ("si_sdr", "sdr"):
            if name in metrics:
                words = (
                    f"{METRICS[name].title} improvement of the {definition}, in the transform of the run, else of 32 ms"
                )
                found[f"{oracle}_{name}_improvement"] = (f"{title} {METRICS[name].title}i", words, "dB")
    return found
