"""A profile of a training, stage by stage: ``sepclip train --profile``."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from sepclip.terminal import say, warn

STAGES = ("data", "STFT", "forward", "loss", "backward", "clip", "optimizer")
VALIDATION = "validation"
WARM_UP, STEPS = 5, 10  # steps before the profile, in which memory and caches fill, and steps of the profile
_CPU, _CUDA = torch.autograd.DeviceType.CPU, torch.autograd.DeviceType.CUDA  # type: ignore[attr-defined]
_STEP = "ProfilerStep"  # the prefix of torch's name for the range around each step


def stage(name: str) -> AbstractContextManager[object]:
    """Mark a stage of the step, one of ``STAGES``, for the profiler; does nothing if no profiler is running."""
    return record_function(name) if torch.autograd.profiler._is_profiler_enabled else nullcontext()


@contextmanager
def profiling(trace: Path | None) -> Iterator[Callable[[], None]]:
    """Profile some steps of the training in the block, which must call the yielded function after each step.

    Writes ``trace``, for chrome://tracing or ui.perfetto.dev, and prints a table. Does nothing if ``trace`` is None.
    """
    if trace is None:
        yield lambda: None
        return
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences the library behind the profiler
    traces = []

    def write(profiler: profile) -> None:
        temporary = trace.with_name(f".{trace.name}")  # still ends in .gz, which makes torch compress it
        profiler.export_chrome_trace(str(temporary))
        temporary.replace(trace)
        traces.append(trace)
        for line in time_table(list(profiler.events())):  # type: ignore[no-untyped-call]
            say(line)
        say(f"all operations are in {trace}: open it in chrome://tracing or ui.perfetto.dev")

    # ten steps: a trace of a whole training would be too large to open
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    when = schedule(wait=0, warmup=WARM_UP, active=STEPS, repeat=1)
    with profile(activities=activities, schedule=when, on_trace_ready=write) as profiler:
        yield profiler.step
    if not traces:
        warn(f"--profile: the training ended within its first {WARM_UP} steps, which are a warm-up: no profile")


def time_table(events: list[Any]) -> list[str]:
    """Return the time of each stage, of the rest, and the share in which a GPU was busy, as lines.

    With a GPU the times are those of the CPU, which runs ahead and waits in the stage that needs a result: the clip
    rule.
    """
    ranges = [event for event in events if event.device_type == _CPU]
    steps = [event for event in ranges if event.name.startswith(_STEP)]
    validations = [event.time_range for event in ranges if event.name == VALIDATION]
    whole = sum(event.time_range.elapsed_us() for event in steps)
    parts = dict.fromkeys(STAGES, 0.0)
    # a validation calls the same functions: its stages count as validation
    for event in ranges:
        if event.name in parts and not any(v.start <= event.time_range.start < v.end for v in validations):
            parts[event.name] += event.time_range.elapsed_us()
    parts[VALIDATION] = sum(span.elapsed_us() for span in validations)
    # what lies between the stages: logging, saving and the loop itself
    parts["idle and other"] = whole - sum(parts.values())
    lines = [f"{len(steps)} steps of {whole / len(steps) / 1000:.1f} ms each, of which on average:"]
    lines += [f"  {name:14} {us / len(steps) / 1000:8.2f} ms {us / whole:6.1%}" for name, us in parts.items()]
    busy = _covered([e.time_range for e in events if e.device_type == _CUDA and e.name not in parts], steps)
    return [*lines, f"  the GPU was busy {busy / whole:.1%} of the time"] if busy else lines


def _covered(spans: list[Any], steps: list[Any]) -> float:
    """Return the microseconds of the ``steps`` that are covered by at least one of the ``spans``."""
    first, last = min(e.time_range.start for e in steps), max(e.time_range.end for e in steps)
    covered, reached = 0.0, first
    # kernels of several streams overlap, so their times must not simply be added
    for span in sorted(spans, key=lambda span: span.start):
        start, end = max(span.start, reached), min(span.end, last)
        if end > start:
            covered, reached = covered + end - start, end
    return covered
