import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from sepclip.clip import GRAMMAR, RULES, AutoClip, TooManySkipped, global_norm, parse, percentile_of_sorted

# for every rule, a text that clips some of the NORMS and not all; a new rule needs its line here
EXAMPLES = {"none": "none", "norm": "norm:2.5", "auto": "auto:50"}
NORMS = [4.0, 1, 3, 2, 8, 0.5]
BAD = [math.nan, math.inf, -math.inf, 0.0]
every_rule = pytest.mark.parametrize("text", EXAMPLES.values())
every_clipping_rule = pytest.mark.parametrize("text", [t for name, t in EXAMPLES.items() if name != "none"])

THRESHOLDS = {
    0: [4, 1, 1, 1, 1, 0.5],
    10: [4, 1.3, 1.4, 1.3, 1.4, 0.75],
    25: [4, 1.75, 2, 1.75, 2, 1.25],
    50: [4, 2.5, 3, 2.5, 3, 2.5],
    90: [4, 3.7, 3.8, 3.7, 6.4, 6],
    100: [4, 4, 4, 4, 8, 8],
}


def parameters(norm, dtype=torch.float32):
    """Return parameters, one without a gradient, whose gradients together have ``norm``; 0.36 + 0.64 = 1."""
    owners = [torch.nn.Parameter(torch.zeros(n, dtype=dtype)) for n in (1, 4, 7)]
    owners[0].grad = torch.full((1,), 0.6 * norm, dtype=dtype)
    owners[1].grad = torch.full((4,), 0.4 * norm, dtype=dtype)
    return owners


def run(rule, norms):
    return [rule(parameters(norm)) for norm in norms]


def small_run(text, steps=30):
    """Train a small network by Adam on noise that grows now and then; return its weights and the rule's steps."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    optimizer, rule, told = torch.optim.Adam(network.parameters(), 1e-2), parse(text) if text else None, []
    for step in range(steps):
        optimizer.zero_grad()
        (network(torch.randn(4, 5)).square().mean() * 1e-6 * (1 + step % 7)).backward()
        if rule:
            told.append(rule(network.parameters()))
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in network.parameters()]), told


def test_every_rule_has_an_example():
    assert set(EXAMPLES) == set(RULES)


@pytest.mark.parametrize("percentile", THRESHOLDS)
def test_worked_example(percentile):
    steps = run(AutoClip(percentile), NORMS)
    assert [step.threshold for step in steps] == pytest.approx(THRESHOLDS[percentile], rel=1e-6)
    factors = [min(1, t / n) for t, n in zip(THRESHOLDS[percentile], NORMS, strict=True)]
    assert [step.factor for step in steps] == pytest.approx(factors, rel=1e-6)
    assert [step.norm for step in steps] == pytest.approx(NORMS, rel=1e-6)


@pytest.mark.parametrize("percentile", [0, 0.1, 1, 10, 25, 50, 90, 99.9, 100])
def test_percentile_is_bit_equal_to_numpy(percentile):
    chance = np.random.default_rng(int(percentile * 10))
    for size in [*range(1, 60), *chance.integers(60, 5000, 40)]:
        values = np.sort(np.exp(chance.normal(-9, 2, size)))
        assert percentile_of_sorted(values.tolist(), percentile) == np.percentile(values, percentile)


@pytest.mark.parametrize("percentile", [0, 10, 50, 100])
def test_threshold_is_the_percentile_of_all_norms_so_far(percentile):
    norms = np.exp(np.random.default_rng(0).normal(-9, 2, 300))
    steps = run(AutoClip(percentile), norms)
    seen = [step.norm for step in steps]
    for count, step in enumerate(steps, 1):
        assert step.threshold == np.percentile(seen[:count], percentile)


@pytest.mark.parametrize("percentile", [0, 10, 50, 90])
def test_neither_the_first_step_nor_a_new_least_norm_is_clipped(percentile):
    assert [step.factor for step in run(AutoClip(percentile), [5e-6, 4e-6, 1e-7, 1e-9])] == [1, 1, 1, 1]


def test_auto_100_is_bit_identical_to_no_clipping():
    bare, _ = small_run(None)
    assert torch.equal(small_run("none")[0], bare)
    assert torch.equal(small_run("auto:100")[0], bare)
    other, steps = small_run("auto:10")
    assert not torch.equal(other, bare)
    assert any(step.clipped for step in steps)


@pytest.mark.parametrize("norm", [1e-7, 1e-5, 1.0, 1e6])
def test_factor_is_exact_however_small_the_gradient(norm):
    owners = parameters(norm)
    before = [p.grad.clone() for p in owners[:2]]
    step = parse(f"norm:{norm / 3:g}")(owners)
    assert step.factor == step.threshold / step.norm  # and not / (norm + 1e-6)
    assert all(torch.equal(p.grad, g * step.factor) for p, g in zip(owners, before, strict=False))
    assert global_norm([p.grad for p in owners[:2]]) == pytest.approx(step.threshold, rel=1e-6)


@every_rule
def test_norm_ends_at_most_at_the_threshold_and_direction_stays(text):
    rule = parse(text)
    for norm in NORMS:
        owners = parameters(norm)
        step = rule(owners)
        after = global_norm([p.grad for p in owners[:2]])
        assert 0 < step.factor <= 1
        assert step.clipped == (step.factor < 1) == (step.norm > step.threshold)
        assert after <= step.threshold * (1 + 1e-6)  # float32 gradients
        assert after == pytest.approx(norm * step.factor, rel=1e-6)
        assert (owners[0].grad / owners[1].grad[0]).item() == pytest.approx(1.5, rel=1e-6)
        assert owners[2].grad is None
    assert rule.steps == len(NORMS)
    assert (rule.clipped > 0) == (text != "none")
    assert rule.clipped < len(NORMS)


@every_rule
def test_gradients_that_stay_are_not_touched(text):
    rule = parse(text)
    for norm in NORMS:
        owners = parameters(norm)
        versions = [p.grad._version for p in owners[:2]]
        step = rule(owners)
        assert [p.grad._version == v for p, v in zip(owners, versions, strict=False)] == [not step.clipped] * 2


@pytest.mark.parametrize("bad", BAD)
@every_rule
def test_a_bad_gradient_is_dropped_counted_and_forgotten(text, bad):
    straight, disturbed = parse(text), parse(text)
    want = run(straight, NORMS)
    got = []
    for norm in NORMS:
        got.append(disturbed(parameters(norm)))
        owners = parameters(bad)
        step = disturbed(owners)
        assert all(p.grad is None for p in owners)
        assert step.factor == 0
        assert not step.clipped
        assert step.skipped == ("gradient is zero" if bad == 0 else "gradient is not finite")
    assert got == want
    assert disturbed.skipped == len(NORMS)
    assert disturbed.clipped == straight.clipped
    assert disturbed.state_dict().get("history") == straight.state_dict().get("history")


@pytest.mark.parametrize("bad", BAD[:3])
@every_rule
def test_one_bad_element_drops_all_gradients(text, bad):
    owners = parameters(1.0)
    owners[1].grad[2] = bad
    assert parse(text)(owners).skipped
    assert all(p.grad is None for p in owners)


@pytest.mark.parametrize("bad", BAD)
def test_adam_does_not_move_on_a_bad_gradient(bad):
    owners = parameters(1.0)
    optimizer, rule = torch.optim.Adam(owners), parse("auto:10")
    rule(owners)
    optimizer.step()
    weights = [p.detach().clone() for p in owners]
    moments = {i: {k: v.clone() for k, v in s.items()} for i, s in optimizer.state_dict()["state"].items()}
    for p in owners:
        p.grad = torch.full_like(p, bad)
    rule(owners)
    optimizer.step()
    assert all(map(torch.equal, weights, owners))
    state = optimizer.state_dict()["state"]
    assert {i: {k: v.tolist() for k, v in s.items()} for i, s in state.items()} == {
        i: {k: v.tolist() for k, v in s.items()} for i, s in moments.items()
    }


def test_parameters_without_any_gradient_are_a_zero_gradient():
    assert parse("auto:10")([torch.nn.Parameter(torch.ones(3))]).skipped == "gradient is zero"


@every_rule
def test_too_many_bad_steps_in_a_row_end_it(text):
    rule = parse(text)
    rule.most_skipped = 3
    run(rule, [math.nan, 0, 1, math.inf, 0])  # never three in a row
    assert rule.skipped_in_a_row == 2
    owners = parameters(math.nan)
    with pytest.raises(TooManySkipped, match="3 steps in a row were skipped: the last gradient is not finite"):
        rule(owners)
    assert all(p.grad is None for p in owners)
    assert (rule.steps, rule.skipped) == (6, 5)


@every_rule
def test_state_carries_a_run_on(text, tmp_path):
    norms = [*NORMS, math.nan, *np.exp(np.random.default_rng(1).normal(0, 2, 40)), 0, 0]
    straight = parse(text)
    want = run(straight, norms)
    for cut in (0, 1, 7, 25, 48):
        first, second = parse(text), parse(text)
        head = run(first, norms[:cut])
        torch.save(first.state_dict(), tmp_path / "state")
        second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
        assert repr(head + run(second, norms[cut:])) == repr(want)  # NaN thresholds are not equal to themselves
        assert second.state_dict() == straight.state_dict()
        assert json.loads(json.dumps(second.state_dict(), allow_nan=False)) == second.state_dict()


def test_percentile_may_change_between_runs():
    first, second = AutoClip(90), AutoClip(10)
    run(first, NORMS[:4])
    second.load_state_dict(first.state_dict())
    assert [s.threshold for s in run(second, NORMS[4:])] == pytest.approx(THRESHOLDS[10][4:], rel=1e-6)


def test_state_of_another_kind_is_refused():
    for here, there in [*pairwise(EXAMPLES.values()), ("none", "auto:10")]:
        with pytest.raises(ValueError, match=f"the state is of the rule '{there}', this is {here}"):
            parse(here).load_state_dict(parse(there).state_dict())


@pytest.mark.parametrize(
    "text", [*EXAMPLES.values(), "auto:0", "auto:99.9", "auto:100", "norm:2e-05", "norm:0.123456789", "auto:99.9999999"]
)
def test_a_rule_is_shown_as_what_it_is(text):
    assert vars(parse(repr(parse(text)))) == vars(parse(text))


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "none:", "none:3", "auto", "auto:", "auto:x", "auto:-1", "auto:100.1", "auto:nan", "auto:10:3"),
        *("norm", "norm:0", "norm:-1", "norm:inf", "norm:nan", "foo", "foo:3", "Auto:10", "auto 10", "10"),
    ],
)
def test_a_bad_text_is_told_what_is_allowed(text):
    with pytest.raises(ValueError, match="is no clipping rule") as told:
        parse(text)
    assert repr(text) in str(told.value)
    assert GRAMMAR in str(told.value)


def test_grammar_names_every_rule():
    assert [part.strip().split(":")[0].split(" ")[0] for part in GRAMMAR.split(", ")] == list(RULES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@every_clipping_rule
def test_other_precisions(text, dtype):
    rule = parse(text)
    run(rule, NORMS[:4])
    owners = parameters(300.7, dtype)  # its square is beyond float16
    before = torch.cat([p.grad.double() for p in owners[:2]]).norm().item()
    step = rule(owners)
    assert step.norm == pytest.approx(before, rel=1e-6)  # of the gradients as stored
    assert step.clipped
    assert owners[1].grad.dtype == dtype
    after = torch.cat([p.grad.double() for p in owners[:2]]).norm().item()
    assert after == pytest.approx(step.threshold, rel=torch.finfo(dtype).eps)


def test_norm_of_mixed_precisions():
    gradients = [torch.full((3,), 2.0, dtype=d) for d in (torch.float32, torch.bfloat16, torch.float16, torch.float64)]
    assert global_norm(gradients) == pytest.approx(48**0.5, rel=1e-7)


def test_overflow_under_a_grad_scaler_leaves_no_trace():
    network = torch.nn.Linear(3, 1)
    optimizer, scaler, rule = torch.optim.SGD(network.parameters(), 0.1), torch.amp.GradScaler("cpu"), parse("auto:50")
    weights = []
    for loss_scale in (1.0, math.inf, 4.0):
        optimizer.zero_grad()
        scaler.scale(network(torch.ones(1, 3)).sum() * loss_scale).backward()
        scaler.unscale_(optimizer)
        rule(network.parameters())
        scaler.step(optimizer)
        scaler.update()
        weights.append(network.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert rule.state_dict()["history"] == pytest.approx([2, 8])  # of the unscaled gradient: ones, four times
    assert (rule.clipped, rule.skipped) == (1, 1)
