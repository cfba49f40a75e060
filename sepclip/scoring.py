"""The scores of one separated file against its references, and of many of them on all cores."""

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from sepclip.audio.bsseval import SCORES, bsseval_v4, load_museval_metrics, window_sdr
from sepclip.audio.masks import ideal_binary_mask
from sepclip.audio.metrics import pairwise_si_sdr, si_sdr
from sepclip.audio.permutation import best_permutation
from sepclip.audio.stft import STFT
from sepclip.errors import UserError
from sepclip.terminal import track

PERFECT_DB = 200.0  # float64 tells nothing beyond: such scores are None, and the row's status is "perfect"
Floats = NDArray[np.float64]


@dataclass
class Row:
    """The scores in dB of one source of one file; None where there is none, and then ``reason`` says why.

    ``status``: ``ok``; ``perfect``, where a score is infinite; ``partial``, where some scores are missing;
    ``excluded``, where all are.
    """

    name: str
    source: str
    group: str | None = None
    voice: str | None = None
    sexes: str | None = None
    si_sdr: float | None = None
    si_sdr_improvement: float | None = None
    sdr: float | None = None
    sdr_improvement: float | None = None
    isr: float | None = None
    sir: float | None = None
    sar: float | None = None
    ibm_si_sdr_improvement: float | None = None
    ibm_sdr_improvement: float | None = None
    status: str = "ok"
    reason: str | None = None


@dataclass(frozen=True)
class Waves:
    """What one file is scored from, in float64: ``est`` and ``ref`` (S, T, C), ``mixture`` (T, C).

    In a ``fixed_order`` estimate and reference of one index belong together; otherwise they are paired first.
    """

    rate_hz: int
    est: Floats
    ref: Floats
    mixture: Floats
    fixed_order: bool = False


@dataclass(frozen=True)
class Item:
    """One file to score: a row for each source, still without scores, and its waves, or the reason for none."""

    rows: list[Row]
    waves: Waves | str


def default_stft(rate_hz: int) -> STFT:
    """Return the transform for the oracle where no run gives one: about 32 ms, a quarter of it as hop."""
    window = 2 ** round(math.log2(0.032 * rate_hz))
    return STFT(window, window // 4)


def score_si_sdr(items: Iterable[Item], total: int) -> list[Row]:
    """Score SI-SDR and its improvement alone, in this process: a small part of the time that :func:`score` takes."""
    rows: list[Row] = []
    for item in track(items, total, "scoring"):
        rows.extend(item.rows)
        if isinstance(item.waves, str):
            _explain(item.rows, item.waves)
        else:
            _enter_si_sdr(item.rows, item.waves)
    for row in rows:
        _settle(row, ("si_sdr",))
    return rows


def score(items: Iterable[Item], total: int, *, stft: STFT | None = None, jobs: int | None = None) -> list[Row]:
    """Score all items, museval's part in ``jobs`` processes (all cores by default); rows in the order of the items.

    ``stft`` is the transform of the ideal binary mask.
    """
    load_museval_metrics()  # a missing museval is told before any work
    jobs = jobs or os.cpu_count() or 1
    rows: list[Row] = []
    waiting: list[tuple[list[Row], Floats, Future[dict[str, Floats] | str]]] = []
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start_worker)
    try:
        for item in track(items, total, "scoring"):
            rows.extend(item.rows)
            if isinstance(item.waves, str):
                _explain(item.rows, item.waves)
                continue
            ready = _score_without_museval(item.rows, item.waves, stft or default_stft(item.waves.rate_hz))
            if ready is not None:
                ordered, mixture_sdr = ready
                future = pool.submit(_museval_scores, ordered, item.waves.ref, item.waves.rate_hz)
                waiting.append((item.rows, mixture_sdr, future))
            if len(waiting) >= 16 * jobs:  # so that memory does not grow with the set
                _collect(waiting)
        _collect(waiting)
    except BrokenProcessPool as error:
        raise UserError("a scoring process was killed, probably for want of memory: use fewer --jobs") from error
    finally:
        pool.shutdown(cancel_futures=True)
    for row in rows:
        _settle(row, ("si_sdr", *SCORES))
    return rows


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    load_museval_metrics()  # its libraries must be there to be limited
    threadpool_limits(1)  # a process a core with a thread each; more are several times slower


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _museval_scores(est: Floats, ref: Floats, rate_hz: int) -> dict[str, Floats] | str:
    """Return museval's scores, or why there are none."""
    try:
        return bsseval_v4(est=est, ref=ref, rate_hz=rate_hz)
    except (ValueError, AttributeError, np.linalg.LinAlgError) as error:
        # on numpy 2, museval 0.4.1 answers a singular system with an AttributeError
        return f"museval: {error}"


def _score_without_museval(rows: list[Row], waves: Waves, stft: STFT) -> tuple[Floats, Floats] | None:
    """Enter all scores but museval's; return the estimates in the order of the references and the mixture's SDR.

    Returns None where museval has nothing to score; the rows say why.
    """
    found = _enter_si_sdr(rows, waves)
    if found is None:
        return None
    est, before = found
    ref, mixture = waves.ref, waves.mixture
    mixtures = np.broadcast_to(mixture, ref.shape)
    oracle = _ideal_binary_mask_estimate(mixture, ref, stft)
    for row, ideal, mixed in zip(rows, si_sdr(est=_flat(oracle), ref=_flat(ref))[0].tolist(), before, strict=True):
        _enter_finite(row, "ibm_si_sdr_improvement", ideal - mixed)
    if any(row.reason for row in rows):
        _explain(rows, "museval: another source of the file is silent")
        return None
    try:
        before_sdr, ideal_sdr = (window_sdr(est=wave, ref=ref, rate_hz=waves.rate_hz) for wave in (mixtures, oracle))
    except ValueError as error:
        _explain(rows, f"museval: {error}")
        return None
    for row, ideal_score, before_score in zip(rows, ideal_sdr, before_sdr, strict=True):
        _enter_finite(row, "ibm_sdr_improvement", float(ideal_score - before_score))
    return est, before_sdr


def _enter_si_sdr(rows: list[Row], waves: Waves) -> tuple[Floats, list[float]] | None:
    """Enter SI-SDR and its improvement, and the reason where a source is silent.

    Returns the estimates (S, T, C) in the order of the references and the SI-SDR of the mixture in dB for each
    reference; None, with the reason in the rows, where the estimates are no numbers.
    """
    est, ref = waves.est, waves.ref
    if not np.isfinite(est).all():
        _explain(rows, "NaN or infinite estimate")
        return None
    if not waves.fixed_order:
        pairwise = pairwise_si_sdr(est=_flat(est), ref=_flat(ref))  # (1, est, ref)
        _, order = best_permutation(pairwise.nan_to_num(-300, 300, -300), maximise=True)
        est = est[order[0].numpy()]  # (S, T, C), in the order of the references
    mixtures = np.broadcast_to(waves.mixture, ref.shape)
    ours, before = (si_sdr(est=_flat(wave), ref=_flat(ref))[0].tolist() for wave in (est, mixtures))
    for index, row in enumerate(rows):
        _enter(row, "si_sdr", ours[index])
        _enter(row, "si_sdr_improvement", ours[index] - before[index])
        if not ref[index].any():
            row.reason = "silent reference"
        elif not est[index].any():
            row.reason = "silent estimate"
    return est, before


def _collect(waiting: list[tuple[list[Row], Floats, Future[dict[str, Floats] | str]]]) -> None:
    """Enter museval's scores into the rows that wait for them."""
    for rows, mixture_sdr, future in waiting:
        scores = future.result()
        if isinstance(scores, str):
            _explain(rows, scores)
            continue
        for index, row in enumerate(rows):
            if math.isnan(scores["sdr"][index]):
                _explain([row], "museval: no window of 1 s in which all sources sound")
            for name, values in scores.items():
                _enter(row, name, float(values[index]))
            _enter(row, "sdr_improvement", float(scores["sdr"][index] - mixture_sdr[index]))
    waiting.clear()


def _enter(row: Row, metric: str, value: float) -> None:
    """Enter a score; an SDR beyond what float64 resolves is perfect and no number."""
    if value > PERFECT_DB and metric in ("si_sdr", "sdr"):
        row.status = "perfect"
    else:
        _enter_finite(row, metric, value)


def _enter_finite(row: Row, metric: str, value: float) -> None:
    if math.isfinite(value) and value <= PERFECT_DB:
        setattr(row, metric, value)


def _explain(rows: list[Row], reason: str) -> None:
    """Say of every row why it lacks scores, unless it has a reason of its own."""
    for row in rows:
        row.reason = row.reason or reason


def _settle(row: Row, wanted: Sequence[str]) -> None:
    """Sum the row up in its status, with a reason for every score of ``wanted`` that is missing."""
    if row.status == "perfect":
        return
    missing = [name.upper() for name in wanted if getattr(row, name) is None]
    if missing and not row.reason:
        constant = "SI_SDR" in missing
        row.reason = "constant or orthogonal estimate" if constant else f"infinite {', '.join(missing)}"
    if row.reason:
        row.status = "excluded" if row.si_sdr is None and row.sdr is None else "partial"


def _flat(waves: Floats) -> torch.Tensor:
    """Return waves (S, T, C) as (1, S, T C): all channels count alike."""
    return torch.from_numpy(np.ascontiguousarray(waves).reshape(1, len(waves), -1))


def _ideal_binary_mask_estimate(mixture: Floats, ref: Floats, stft: STFT) -> Floats:
    """Return what the ideal binary mask of each channel makes of the mixture (S, T, C)."""
    sources = stft.forward(torch.from_numpy(np.ascontiguousarray(ref.transpose(2, 0, 1))))  # (C, S, N, F)
    spectrum = stft.forward(torch.from_numpy(np.ascontiguousarray(mixture.T)))  # (C, N, F)
    waves: Any = stft.inverse(ideal_binary_mask(sources) * spectrum.unsqueeze(1), ref.shape[1])  # (C, S, T)
    return np.ascontiguousarray(waves.permute(1, 2, 0).numpy())
