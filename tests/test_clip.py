import copy
import json
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sepclip.clip import (
    RULES,
    AutoClip,
    History,
    NormRule,
    Rule,
    TooManySkipped,
    all_grammars,
    global_norm,
    layer_of,
    parse,
)  # fmt: skip

# Texts that clip or drop some of the NORMS and not all. A rule that has no text here is tested as NAME:1 (or NAME); one
# that does nothing to the NORMS in that form, such as a rule with a long warm-up, needs a text of its own.
EXAMPLES = [
    *("none", "norm:2.5", "norm:2.5,eps=1e-06", "value:0.6", "agc:0.5", "agc:0.5,but=b"),
    *("auto:50", "auto:50,window=4", "auto:50,per=layer", "auto:50,window=3,per=tensor", "auto:90,eps=1e-06"),
    *("zclip:1,warmup=2", "zclip:1,warmup=3,cap=7", "pascanu:1,warmup=2", "logsigma:1,warmup=3"),
]
_NAMES = {text.split(",")[0].split(":")[0] for text in EXAMPLES}
EXAMPLES += [f"{name}:1" if ":" in RULES[name].grammar else name for name in RULES if name not in _NAMES]
SHARING = {"whole", "group", "element"}
NORMS = [4.0, 1, 3, 2, 8, 0.5]
BAD = [math.nan, math.inf, -math.inf, 0.0]
every_rule = pytest.mark.parametrize("text", EXAMPLES)
every_clipping_rule = pytest.mark.parametrize("text", EXAMPLES[1:])

THRESHOLDS = {
    0: [4, 1, 1, 1, 1, 0.5],
    10: [4, 1.3, 1.4, 1.3, 1.4, 0.75],
    25: [4, 1.75, 2, 1.75, 2, 1.25],
    50: [4, 2.5, 3, 2.5, 3, 2.5],
    90: [4, 3.7, 3.8, 3.7, 6.4, 6],
    100: [4, 4, 4, 4, 8, 8],
}


def with_trait(trait):
    return pytest.mark.parametrize("text", [text for text in EXAMPLES if trait in parse(text).traits])


def parameters(norm, dtype=torch.float32):
    """Return named parameters, one without a gradient, whose gradients together have ``norm``: 0.36 + 0.48 + 0.16."""
    shapes = {"a.weight": (2, 3), "a.bias": (3,), "b.weight": (4,), "b.bias": (7,)}
    owners = {name: torch.nn.Parameter(torch.ones(shape, dtype=dtype)) for name, shape in shapes.items()}
    signs = torch.tensor([[1.0, -1, 1], [-1, 1, 1]], dtype=dtype)
    owners["a.weight"].grad = signs * (norm * 0.36**0.5 / 6**0.5)
    owners["a.bias"].grad = torch.full((3,), norm * 0.48**0.5 / 3**0.5, dtype=dtype)
    owners["b.weight"].grad = torch.full((4,), norm * 0.16**0.5 / 4**0.5, dtype=dtype)
    return list(owners.items())


def gradients(owners):
    return [owner.grad for _, owner in owners if owner.grad is not None]


def copied(owners):
    """Return copies of the parameters and their gradients; deepcopy leaves gradients out."""
    copies = [(name, torch.nn.Parameter(owner.detach().clone())) for name, owner in owners]
    for (_, owner), (_, copy_) in zip(owners, copies, strict=True):
        copy_.grad = None if owner.grad is None else owner.grad.clone()
    return copies


def run(rule, norms):
    return [rule(parameters(norm)) for norm in norms]


def small_run(text, steps=30):
    """Train a small network by Adam on noise that grows now and then; return its weights and the rule's steps."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    optimizer, rule, actions = torch.optim.Adam(network.parameters(), 1e-2), parse(text) if text else None, []
    for step in range(steps):
        optimizer.zero_grad()
        (network(torch.randn(4, 5)).square().mean() * 1e-6 * (1 + step % 7)).backward()
        if rule:
            actions.append(rule(network.named_parameters()))
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in network.parameters()]), actions


# The table and its texts


def test_every_rule_has_an_example_and_its_grammar():
    assert {parse(text).name for text in EXAMPLES} == set(RULES)
    assert [part.split(":")[0] for part in all_grammars().split("; ")] == list(RULES)


@every_rule
def test_every_rule_declares_its_traits(text):
    rule = parse(text)
    assert len(rule.traits & SHARING) == 1
    assert rule.traits <= {*SHARING, "scale-free"}


def test_base_rule_has_no_default_traits():
    class Bare(Rule):
        name = "bare"

    with pytest.raises(AttributeError):
        _ = Bare().traits


@pytest.mark.parametrize(
    "text",
    [
        *EXAMPLES,
        *("auto:0", "auto:99.9", "auto:100", "norm:2e-05", "norm:0.30000000000000004", "auto:99.9999999"),
        *("auto:10,window=1000,per=layer", "auto:10,most_skipped=5", "zclip:2.5", "pascanu:5", "logsigma:4"),
    ],
)
def test_repr_is_the_text_of_the_rule(text):
    assert repr(parse(text)) == text
    assert vars(parse(repr(parse(text)))).keys() == vars(parse(text)).keys()


def test_parse_accepts_several_spellings():
    assert repr(parse(" auto:10.0, per=layer,window=7 ")) == "auto:10,window=7,per=layer"
    assert repr(parse("auto:10,per=all,eps=0")) == "auto:10"
    assert repr(parse("zclip:2.5,cap=inf")) == "zclip:2.5"


@pytest.mark.parametrize("text", ["norm:1,eps=inf", "auto:10,eps=inf"])
def test_infinite_eps_is_refused(text):
    with pytest.raises(ValueError, match="eps must be 0 or more"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((text, "no such name") for text in ("", ":", "foo", "foo:3", "Auto:10", "auto 10", "10", ",", ",window=3")),
        *(("none:", "no value"), ("none:3", "no value"), ("auto", "needs a value"), ("auto,window=3", "needs a value")),
        *((f"auto:{p}", "must be a number") for p in ("", "x", "10:3")),
        *((f"auto:{p}", "from 0 to 100") for p in ("-1", "100.1", "nan")),
        *((f"norm:{v}", "above 0 and finite") for v in ("0", "-1", "inf", "nan")),
        *((f"value:{v}", "above 0 and finite") for v in ("0", "nan")),
        *((f"agc:{v}", "above 0 and finite") for v in ("0", "inf")),
        *((f"zclip:{v}", "above 0 and finite") for v in ("0", "nan")),
        *((f"pascanu:{v}", "above 0 and finite") for v in ("0", "inf")),
        *((f"logsigma:{v}", "above 0 and finite") for v in ("-4", "inf")),
        *(
            ("auto:10,window=0", "1 or more"),
            ("auto:10,window=2.5", "whole number"),
            ("auto:10,window", "whole number"),
        ),
        *(("auto:10,per=step", "one of all, layer, tensor"), ("auto:10,windw=3", "no option 'windw'")),
        *(("auto:10,window=3,window=4", "given twice"), ("auto:10,eps=-1", "eps must be 0"), ("norm:1,eps=nan", "eps")),
        *(("zclip:2,decay=1", "decay"), ("zclip:2,warmup=1", "warmup"), ("zclip:2,cap=0", "cap")),
        *(("pascanu:2,warmup=0", "warmup"), ("logsigma:4,decay=0", "decay"), ("none,most_skipped=0", "most_skipped")),
    ],
)
def test_parse_error_says_what_is_allowed(text, reason):
    with pytest.raises(ValueError, match="is not a clipping rule") as error:
        parse(text)
    assert repr(text) in str(error.value)
    assert reason in str(error.value)
    name = text.split(",")[0].split(":")[0]
    assert f"write {RULES[name].grammar if name in RULES else all_grammars()}" in str(error.value)


# AutoClip


@pytest.mark.parametrize("percentile", THRESHOLDS)
def test_autoclip_matches_the_worked_example(percentile):
    steps = run(AutoClip(percentile), NORMS)
    assert [step.threshold for step in steps] == pytest.approx(THRESHOLDS[percentile], rel=1e-6)
    factors = [min(1, t / n) for t, n in zip(THRESHOLDS[percentile], NORMS, strict=True)]
    assert [step.factor for step in steps] == pytest.approx(factors, rel=1e-6)
    assert [step.norm for step in steps] == pytest.approx(NORMS, rel=1e-6)


# some values are on a coarse grid, so that equal norms occur
NUMBERS = st.one_of(st.floats(1e-30, 1e30), st.integers(1, 9).map(float))


@pytest.mark.parametrize("percentile", [0, 0.1, 1, 10, 25, 50, 90, 99.9, 100])
@given(norms=st.lists(NUMBERS, min_size=1, max_size=60), window=st.none() | st.integers(1, 20))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_percentile_is_bit_equal_to_numpy(percentile, norms, window):
    history = History(window)
    for count, norm in enumerate(norms, 1):
        history.add(norm)
        seen = norms[:count][-(window or count) :]
        assert history.percentile(percentile) == np.percentile(seen, percentile)
        assert len(history) == len(seen)
        assert history.norms() == (seen if window else sorted(seen))


@pytest.mark.parametrize("window", [None, 1, 2, 3000])
def test_percentile_stays_bit_equal_over_many_blocks(window):
    """Norms that drift and repeat fill, halve and empty the blocks of the history."""
    chance = np.random.default_rng(3)
    norms = np.exp(np.sin(np.arange(12000) / 1500) * 3 + chance.normal(0, 0.3, 12000)).round(2) + 0.01
    history = History(window)
    for count, norm in enumerate(norms.tolist(), 1):
        history.add(norm)
        if count % 97 == 0:
            seen = norms[:count][-(window or count) :]
            for percentile in (10, chance.uniform(0, 100), 100, 0):
                assert history.percentile(percentile) == np.percentile(seen, percentile)
    assert sorted(history.norms()) == sorted(norms[-(window or len(norms)) :].tolist())
    again = History(window, history.norms())
    assert again.norms() == history.norms()
    assert again.percentile(33) == history.percentile(33)


class SmallBlocks(History):
    _MAX_BLOCK = 4


# a norm, the percentile computed after it, and whether the history is saved and loaded before the next (0: yes)
MOVES = st.lists(st.tuples(NUMBERS, st.sampled_from([0, 10, 50, 90, 100]), st.integers(0, 20)), min_size=1, max_size=80)


@given(moves=MOVES, window=st.none() | st.integers(1, 30))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_history_with_small_blocks_is_still_exact(moves, window):
    history, norms = SmallBlocks(window), []
    for norm, percentile, chance in moves:
        history.add(norm)
        norms.append(norm)
        seen = norms[-(window or len(norms)) :]
        assert history.percentile(percentile) == np.percentile(seen, percentile)
        assert history.norms() == (seen if window else sorted(seen))
        if chance == 0:
            history = SmallBlocks(window, history.norms())


def test_history_blocks_stay_small():
    history = History()
    for norm in range(10000):
        history.add(float(norm))
    assert max(map(len, history._blocks)) < History._MAX_BLOCK


def test_history_removes_empty_blocks():
    history = SmallBlocks(8)
    for norm in range(1000):
        history.add(float(norm))
    assert len(history._blocks) <= 8


@pytest.mark.parametrize(("window", "most"), [(None, 9), (100_000, 18)])
def test_history_takes_few_bytes_a_norm(window, most):
    history, count = History(window), 100_000
    for norm in np.random.default_rng(0).lognormal(0, 1, count + (window or 0)).tolist():
        history.add(norm)
    arrays = [*history._blocks, history._ring]
    assert len(history) == count
    assert sum(map(sys.getsizeof, arrays)) < most * count


def test_empty_history_has_no_percentile():
    with pytest.raises(ValueError, match="without norms"):
        History().percentile(50)


@pytest.mark.parametrize("percentile", [0, 10, 50, 100])
def test_threshold_is_the_percentile_of_all_norms_so_far(percentile):
    norms = np.exp(np.random.default_rng(0).normal(-9, 2, 300))
    steps = run(AutoClip(percentile), norms)
    seen = [step.norm for step in steps]
    for count, step in enumerate(steps, 1):
        assert step.threshold == np.percentile(seen[:count], percentile)


@pytest.mark.parametrize("percentile", [0, 10, 50, 90])
def test_neither_the_first_step_nor_a_new_smallest_norm_is_clipped(percentile):
    assert [step.factor for step in run(AutoClip(percentile), [5e-6, 4e-6, 1e-7, 1e-9])] == [1, 1, 1, 1]


@pytest.mark.parametrize("text", ["none", "auto:100", "auto:100,per=layer", "auto:100,per=tensor,window=1000"])
def test_auto_100_is_bit_identical_to_no_clipping(text):
    bare, _ = small_run(None)
    assert torch.equal(small_run(text)[0], bare)


def test_auto_10_differs_from_no_clipping():
    weights, steps = small_run("auto:10")
    assert not torch.equal(weights, small_run(None)[0])
    assert any(step.clipped for step in steps)


def test_window_forgets_old_norms():
    rule = parse("auto:0,window=2")
    assert [step.threshold for step in run(rule, NORMS)] == pytest.approx([4, 1, 1, 2, 2, 0.5])


@pytest.mark.parametrize(
    ("per", "parts"), [("layer", {"a": 2, "b": 1}), ("tensor", {"a.weight": 1, "a.bias": 1, "b.weight": 1})]
)
def test_each_layer_or_tensor_has_a_history(per, parts):
    """Each part must be clipped as by a rule that sees only the gradients of that part."""
    rule, alone = parse(f"auto:50,per={per}"), {part: parse("auto:50") for part in parts}
    chance = np.random.default_rng(0)
    for _ in range(30):
        owners = parameters(1.0)
        for _, owner in owners[:3]:
            owner.grad *= chance.lognormal()
        if chance.random() < 0.3:
            owners[2][1].grad = None  # a layer may be frozen for a while
        copies = copied(owners)
        step = rule(owners)
        for part, part_rule in alone.items():
            members = [(n, p) for n, p in copies if n == part or n.startswith(f"{part}.")]
            if any(p.grad is not None for _, p in members):
                want = part_rule(members)
                assert (step.parts[part].norm, step.parts[part].threshold) == (want.norm, want.threshold)
                assert step.parts[part].factor == want.factor
            else:
                assert part not in step.parts
        assert all(
            torch.equal(p.grad, q.grad) for (_, p), (_, q) in zip(owners, copies, strict=True) if p.grad is not None
        )
        assert step.factor == min(part.factor for part in step.parts.values())
        assert step.threshold == math.hypot(*(part.threshold for part in step.parts.values()))
    assert rule.clipped_shares() == pytest.approx(
        {part: part_rule.clipped / part_rule.steps for part, part_rule in alone.items()}
    )
    assert list(rule.clipped_shares().values()) == sorted(rule.clipped_shares().values(), reverse=True)


def test_a_layer_with_a_zero_gradient_keeps_its_history():
    rule = parse("auto:50,per=layer")
    run(rule, [1, 2])
    owners = parameters(1.0)
    owners[2][1].grad.zero_()
    step = rule(owners)
    assert set(step.parts) == {"a"}
    assert not step.skipped
    assert [len(norms) for norms in rule.state_dict()["histories"].values()] == [3, 2]


def test_per_layer_and_but_need_names():
    owners = [owner for _, owner in parameters(1.0)]
    for text in ("auto:10,per=layer", "agc:0.1,but=heads"):
        with pytest.raises(ValueError, match=r"needs names: call it with model.named_parameters\(\)"):
            parse(text)(owners)
    assert list(parse("auto:10,per=tensor")(owners).parts) == ["#0", "#1", "#2"]


def test_layer_of_maps_names_to_layers():
    network = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(2, 3, 2, bidirectional=True), "out": torch.nn.Linear(6, 1)})
    assert {layer_of(name) for name, _ in network.named_parameters()} == {"lstm.l0", "lstm.l1", "out"}
    assert layer_of("scale") == "scale"
    assert layer_of("weight_ih_l0") == "l0"


def test_wrappers_do_not_change_the_names_of_layers():
    rule = parse("auto:10,per=layer")
    for name in ("module._orig_mod.{}.{}", "{}._orig_mod.{}", "module.{}._checkpoint_wrapped_module.{}", "{}.{}"):
        rule([(name.format(*plain.split(".")), owner) for plain, owner in parameters(1.0)])
    assert {part: len(norms) for part, norms in rule.state_dict()["histories"].items()} == {"a": 4, "b": 4}


def test_module_attribute_of_a_model_is_not_a_wrapper():
    owners = {n: torch.nn.Parameter(torch.ones(2)) for n in ("weight", "module.weight")}
    for o in owners.values():
        o.grad = torch.ones(2)
    assert len(parse("auto:10,per=tensor")(owners.items()).parts) == 2


def test_per_layer_applies_eps_to_each_layer():
    step = parse("auto:100,per=layer,eps=1")(parameters(1.0))
    for part in step.parts.values():
        assert part.factor == part.threshold / (part.norm + 1)


def test_shares_are_sorted_by_size():
    rule = parse("auto:0,per=tensor")
    for a, b in [(1, 1), (1, 2), (1, 2)]:
        owners = [torch.nn.Parameter(torch.ones(1)) for _ in "ab"]
        for owner, g in zip(owners, (a, b), strict=True):
            owner.grad = torch.tensor([float(g)])
        rule(zip("ab", owners, strict=True))
    assert list(rule.clipped_shares().items()) == [("b", 2 / 3), ("a", 0)]


def test_parameter_list_has_names_for_per_layer():
    layers = torch.nn.ParameterList([torch.ones(2)])
    layers[0].grad = torch.ones(2)
    parse("auto:10,per=layer")(layers.named_parameters())


@pytest.mark.parametrize(("settings", "reason"), [({"per": "layers"}, "one of all"), ({"window": 2.5}, "whole")])
def test_settings_are_checked_without_parse_too(settings, reason):
    with pytest.raises(ValueError, match=reason):
        AutoClip(10, **settings)


# The other rules, each against its source


def test_fixed_norm_scales_to_its_threshold():
    assert [step.factor for step in run(parse("norm:2"), NORMS)] == pytest.approx([0.5, 1, 2 / 3, 1, 0.25, 1], rel=1e-6)


def test_fixed_value_equals_clip_grad_value():
    owners = parameters(3.0)
    want = copied(owners)
    torch.nn.utils.clip_grad_value_([owner for _, owner in want], 0.7)
    largest = max(g.abs().max().item() for g in gradients(owners))
    step = parse("value:0.7")(owners)
    assert all(map(torch.equal, gradients(owners), gradients(want)))
    assert step.factor == 0.7 / largest
    assert step.threshold == pytest.approx(0.7 * 13**0.5)


def test_value_counts_negative_elements():
    owner = torch.nn.Parameter(torch.ones(2))
    owner.grad = torch.tensor([-3.0, 1.0])
    assert parse("value:2")([owner]).factor == 2 / 3
    assert owner.grad.tolist() == [-2, 1]


def test_fixed_value_may_exceed_the_range_of_float16():
    owners = [torch.nn.Parameter(torch.ones(2, dtype=dtype)) for dtype in (torch.float16, torch.float32)]
    owners[0].grad, owners[1].grad = torch.full((2,), 6e4, dtype=torch.float16), torch.full((2,), 1e7)
    parse("value:1e6")(owners)  # more than float16 can hold
    assert owners[0].grad.tolist() == [6e4 // 32 * 32] * 2
    assert owners[1].grad.tolist() == [1e6, 1e6]


def test_fixed_norm_with_eps_equals_clip_grad_norm():
    for norm in (1e-6, 1e-5, 1.0):
        owners = parameters(norm)
        want = copied(owners)
        torch.nn.utils.clip_grad_norm_([owner for _, owner in want], norm)
        step = parse(f"norm:{norm},eps=1e-6")(owners)
        for got, wanted in zip(gradients(owners), gradients(want), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-6, atol=0)
        assert step.factor < 1


def test_agc_limits_each_unit():
    weights = torch.tensor([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]])
    owners = [("w", torch.nn.Parameter(weights)), ("b", torch.nn.Parameter(torch.tensor([3.0, 4.0])))]
    owners[0][1].grad = torch.tensor([[3.0, 4.0], [0.003, 0.004], [0.3, 0.4]])
    owners[1][1].grad = torch.tensor([0.0, 10.0])
    step = parse("agc:0.1")(owners)
    # limits: 0.1 of 5, of the least weight 1e-3, of 10, and of the bias as one unit
    want = torch.tensor([[0.3, 0.4], [0.00006, 0.00008], [0.3, 0.4]])
    torch.testing.assert_close(owners[0][1].grad, want)
    torch.testing.assert_close(owners[1][1].grad, torch.tensor([0.0, 0.5]))
    assert step.factor == pytest.approx(1e-4 / 0.005, rel=1e-6)
    assert step.threshold == pytest.approx(math.hypot(0.5, 1e-4, 1.0, 0.5), rel=1e-6)
    assert step.norm == pytest.approx(math.hypot(5, 0.005, 0.5, 10), rel=1e-6)


def test_agc_handles_convolutions_and_scalars():
    owners = [torch.nn.Parameter(torch.ones(2, 3, 4)), torch.nn.Parameter(torch.tensor(2.0))]
    owners[0].grad = torch.stack([torch.ones(3, 4), torch.full((3, 4), 0.01)])
    owners[1].grad = torch.tensor(-9.0)
    parse("agc:0.1")(owners)
    torch.testing.assert_close(owners[0].grad, torch.stack([torch.full((3, 4), 0.1), torch.full((3, 4), 0.01)]))
    assert owners[1].grad.item() == pytest.approx(-0.2)


def test_agc_excludes_the_named_layer():
    owners = parameters(100.0)
    before = owners[2][1].grad.clone()
    parse("agc:0.5,but=b")(owners)
    assert torch.equal(owners[2][1].grad, before)
    assert owners[0][1].grad.norm() < 2
    assert owners[1][1].grad.norm() < 2  # its name contains a b, but not as a component


def test_zclip_follows_its_definition():
    """Mean and variance over the warm-up, then the update of the paper, step by step."""
    norms = np.random.default_rng(0).lognormal(0, 1, 200)
    rule, alpha, z_star, warm = parse("zclip:2.5"), 0.97, 2.5, norms[:25]
    thresholds = [rule.observe(norm) for norm in norms]
    assert thresholds[:25] == [math.inf] * 25
    mean, variance, spikes = warm.mean(), warm.var(), 0
    for norm, threshold in zip(norms[25:], thresholds[25:], strict=True):
        z = (norm - mean) / variance**0.5
        if z > z_star:
            want = norm_after = mean + z_star * variance**0.5 * (z_star / z)
            spikes += 1
        else:
            want, norm_after = mean + z_star * variance**0.5, norm
        assert threshold == pytest.approx(want, rel=1e-12)
        mean = alpha * mean + (1 - alpha) * norm_after
        variance = alpha * variance + (1 - alpha) * (norm_after - mean) ** 2
    assert 3 < spikes < 100


def test_zclip_cap_limits_the_threshold():
    rule = parse("zclip:2.5,cap=3,warmup=2")
    assert [step.factor for step in run(rule, [6, 1, 2])] == pytest.approx([0.5, 1, 1])


def test_zclip_learns_norms_before_the_cap():
    plain, capped = parse("zclip:1,warmup=2"), parse("zclip:1,warmup=2,cap=2.5")
    thresholds = [(plain.observe(n), capped.observe(n)) for n in NORMS]
    assert all(c == min(p, 2.5) for p, c in thresholds)


@pytest.mark.parametrize("norm", [1e-5, 3.3e-5, 7e-4, 0.3, 25.0, 4e3])
@pytest.mark.parametrize("text", ["logsigma:4,warmup=3", "zclip:2.5,warmup=3"])
def test_equal_norms_are_never_outliers(text, norm):
    rule = parse(text)
    assert all(rule.observe(norm) >= norm for _ in range(500))


@pytest.mark.parametrize(("text", "free"), [("zclip:2", 25), ("logsigma:4", 100), ("pascanu:2", 1000)])
def test_rules_have_their_default_warm_ups(text, free):
    rule = parse(text)
    thresholds = [rule.observe(norm) for norm in np.random.default_rng(0).lognormal(0, 1, free + 1).tolist()]
    assert thresholds[:free] == [math.inf] * free
    assert thresholds[free] < math.inf


def test_rules_have_their_default_decays():
    assert (parse("zclip:2").decay, parse("logsigma:4").decay) == (0.97, 0.99)


def test_pascanu_resumed_with_a_shorter_warm_up_is_fixed_at_once():
    long, short = parse("pascanu:1,warmup=10"), parse("pascanu:1,warmup=5")
    for _ in range(8):
        long.observe(2.0)
    short.load_state_dict(long.state_dict())
    assert short.observe(9.0) == 2


def test_logsigma_threshold_does_not_overflow():
    rule = parse("logsigma:1000,warmup=2")
    assert [rule.observe(norm) for norm in (1e-30, 1e30, 1.0)][2] == math.exp(700)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
@pytest.mark.parametrize("text", ["auto:50", "zclip:2", "pascanu:2", "logsigma:4"])
def test_observe_refuses_unusable_norms(text, bad):
    with pytest.raises(ValueError, match="cannot be used: skip this step"):
        parse(text).observe(bad)


def test_observe_accepts_tensors():
    rule = parse("zclip:2,warmup=2")
    for n in (1.0, 2.0, 3.0):
        rule.observe(torch.tensor(n))
    assert type(rule.state_dict()["mean"]) is float


def test_per_layer_rule_cannot_observe_the_norm_of_all():
    with pytest.raises(ValueError, match="auto:10,per=layer has no threshold for the norm of all gradients"):
        parse("auto:10,per=layer").observe(1.0)


def test_pascanu_is_fixed_after_its_warm_up():
    rule = parse("pascanu:2,warmup=4")
    assert [step.threshold for step in run(rule, NORMS)] == pytest.approx([math.inf] * 4 + [5, 5])


def test_logsigma_drops_outliers_and_adapts_to_a_lasting_rise():
    rule, chance = parse("logsigma:4"), np.random.default_rng(0)
    steps = run(rule, np.exp(chance.normal(0, 0.2, 150)))
    assert not any(step.skipped for step in steps)
    owners = parameters(50.0)
    step = rule(owners)
    assert step.skipped == f"norm 50 is above {step.threshold:.3g}"
    assert 1.5 < step.threshold < 4
    assert all(owner.grad is None for _, owner in owners)
    risen = run(rule, np.exp(chance.normal(4, 0.2, 40)))  # for good
    assert risen[0].skipped
    assert not any(step.skipped for step in risen[-20:])


def test_logsigma_follows_its_definition():
    norms = np.random.default_rng(1).lognormal(3, 1, 300)
    rule = parse("logsigma:2,warmup=50,decay=0.95")
    thresholds = [rule.observe(norm) for norm in norms]
    logs = np.log(norms)
    mean, variance = logs[:50].mean(), logs[:50].var()
    for log, threshold in zip(logs[50:], thresholds[50:], strict=True):
        assert threshold == pytest.approx(np.exp(mean + 2 * variance**0.5), rel=1e-10)
        mean = 0.95 * mean + 0.05 * log
        variance = 0.95 * variance + 0.05 * (log - mean) ** 2


@pytest.mark.parametrize(
    "text", [text for text in EXAMPLES if isinstance(parse(text), NormRule) and "per=" not in text]
)
def test_observe_returns_the_thresholds_of_clipping(text):
    rule, observer = parse(text), parse(text)
    steps = run(rule, NORMS)
    assert [observer.observe(step.norm) for step in steps] == [step.threshold for step in steps]


# Laws over the whole table


@every_rule
def test_the_same_gradients_give_the_same_steps(text):
    assert run(parse(text), NORMS) == run(parse(text), NORMS)
    acted = [step.factor < 1 for step in run(parse(text), NORMS)]
    assert any(acted) == (text != "none")
    assert not all(acted) or "eps" in text


@every_rule
def test_rule_needs_one_transfer_a_step(text, monkeypatch):
    calls = []
    for name in ("tolist", "item", "cpu", "__float__", "__bool__", "__int__"):
        method = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda s, *a, _method=method, _name=name: calls.append(_name) or _method(s, *a)
        )
    rule = parse(text)
    for norm in NORMS:
        owners = parameters(norm)
        calls.clear()
        rule(owners)
        assert calls == ["tolist"]


@every_rule
def test_counters_match_the_steps(text):
    rule = parse(text)
    steps = run(rule, NORMS)
    assert rule.steps == len(NORMS)
    assert rule.clipped == sum(step.clipped for step in steps)
    assert rule.skipped == sum(bool(step.skipped) for step in steps)
    assert all(step.clipped == (0 < step.factor < 1) for step in steps)


@every_rule
def test_no_gradient_grows_and_none_ends_above_its_threshold(text):
    rule = parse(text)
    for norm in NORMS:
        owners = parameters(norm)
        before = copy.deepcopy(gradients(owners))
        step = rule(owners)
        assert owners[3][1].grad is None
        assert step.norm == pytest.approx(norm, rel=1e-6)
        assert 0 <= step.factor <= 1
        after = gradients(owners)
        if step.skipped:
            assert not after
            continue
        assert global_norm(after) <= step.threshold * (1 + 1e-6)
        for old, new in zip(before, after, strict=True):
            assert (new.abs() <= old.abs()).all()
            assert (new * old >= 0).all()
            assert (new == old).all() or step.clipped


@with_trait("whole")
def test_whole_rules_keep_the_direction(text):
    rule = parse(text)
    for norm in NORMS:
        owners = parameters(norm)
        before = copy.deepcopy(gradients(owners))
        step = rule(owners)
        for old, new in zip(before, gradients(owners), strict=False):
            assert torch.equal(new, old * step.factor)  # one factor, applied exactly


@with_trait("group")
def test_group_rules_keep_the_direction_of_each_row(text):
    rule = parse(text)
    for norm in NORMS:
        owners = parameters(norm)
        before = copy.deepcopy(gradients(owners))
        rule(owners)
        for old, new in zip(before, gradients(owners), strict=True):
            ratio = new / old
            torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio), rtol=1e-6, atol=0)


@with_trait("scale-free")
@pytest.mark.parametrize("power", [-40, -3, 17])
def test_scale_free_rules_ignore_the_unit_of_the_gradients(text, power):
    norms = [*NORMS, *np.random.default_rng(2).lognormal(0, 1, 60)]
    plain, scaled = run(parse(text), norms), run(parse(text), [norm * 2.0**power for norm in norms])
    if text.startswith("logsigma"):  # by way of logarithms, so only what it decides is exact
        assert [bool(step.skipped) for step in plain] == [bool(step.skipped) for step in scaled]
    else:
        assert [step.factor for step in plain] == [step.factor for step in scaled]


@pytest.mark.parametrize("text", [text for text in EXAMPLES if "scale-free" not in parse(text).traits])
def test_other_rules_depend_on_the_unit_of_the_gradients(text):
    factors = [
        [step.factor for step in run(parse(text), [norm * unit for norm in NORMS])] for unit in (2.0**-20, 1, 2.0**20)
    ]
    assert factors[0] != factors[1] or factors[1] != factors[2]


@every_rule
def test_unclipped_gradients_are_not_written(text):
    rule = parse(text)
    for norm in NORMS:
        owners = parameters(norm)
        kept = gradients(owners)
        versions = [gradient._version for gradient in kept]
        step = rule(owners)
        if not step.clipped:
            assert [gradient._version for gradient in kept] == versions


@pytest.mark.parametrize("bad", BAD)
@every_rule
def test_bad_gradient_is_dropped_counted_and_forgotten(text, bad):
    straight, disturbed = parse(text), parse(text)
    want = run(straight, NORMS)
    got = []
    for norm in NORMS:
        got.append(disturbed(parameters(norm)))
        owners = parameters(bad)
        step = disturbed(owners)
        assert all(owner.grad is None for _, owner in owners)
        assert step.factor == 0
        assert not step.clipped
        assert step.skipped == ("gradient is zero" if bad == 0 else "gradient is not finite")
    assert got == want
    assert disturbed.skipped == len(NORMS) + straight.skipped
    counters = {"steps": 0, "skipped": 0, "skipped_in_a_row": 0}
    assert {**disturbed.state_dict(), **counters} == {**straight.state_dict(), **counters}


@pytest.mark.parametrize("bad", BAD[:3])
@every_rule
def test_one_bad_element_drops_all_gradients(text, bad):
    owners = parameters(1.0)
    owners[1][1].grad[2] = bad
    assert parse(text)(owners).skipped
    assert all(owner.grad is None for _, owner in owners)


@pytest.mark.parametrize("bad", [*BAD, 1e6])
def test_adam_does_not_move_on_a_dropped_gradient(bad):
    owners = parameters(1.0)
    optimizer = torch.optim.Adam([owner for _, owner in owners])
    rule = parse("logsigma:4,warmup=2" if bad == 1e6 else "auto:10")
    for _ in range(3):
        rule(owners)
        optimizer.step()
    weights = [owner.detach().clone() for _, owner in owners]
    moments = copy.deepcopy(optimizer.state_dict()["state"])
    for _, owner in owners:
        owner.grad = torch.full_like(owner, bad)
    assert rule(owners).skipped
    optimizer.step()
    assert all(torch.equal(old, owner) for old, (_, owner) in zip(weights, owners, strict=True))
    state = optimizer.state_dict()["state"]
    assert {i: {k: v.tolist() for k, v in s.items()} for i, s in state.items()} == {
        i: {k: v.tolist() for k, v in s.items()} for i, s in moments.items()
    }


@every_rule
def test_parameters_without_any_gradient_are_a_zero_gradient(text):
    assert parse(text)([("p", torch.nn.Parameter(torch.ones(3)))]).skipped == "gradient is zero"
    empty = torch.nn.Parameter(torch.ones(0))
    empty.grad = torch.ones(0)
    assert parse(text)([("p", empty)]).skipped == "gradient is zero"
    assert not parse(text)([("p", empty), *parameters(1.0)]).skipped


# What a rule is given

KEPT = {  # each is given to a rule in every step: the optimizer would move by gradients that the rule never sees
    "generator": (lambda net: net.named_parameters(), "got no parameters"),
    "filter": (lambda net: filter(lambda p: p[1].requires_grad, net.named_parameters()), "got no parameters"),
    "zip": (lambda net: zip("abcd", net.parameters(), strict=True), "got no parameters"),
    "empty list": (lambda net: [], "got no parameters"),
    "groups without parameters": (lambda net: [{"params": []}], "got no parameters"),
    "module without parameters": (lambda net: torch.nn.Tanh(), "got no parameters"),
    "copy": (lambda net: list(copy.deepcopy(net).named_parameters()), "found no gradient in 4 tensors, two steps"),
    "data": (lambda net: [(n, p.data) for n, p in net.named_parameters()], "can have a gradient"),
    "detached": (lambda net: [(n, p.detach()) for n, p in net.named_parameters()], "can have a gradient"),
    "buffers": (lambda net: list(torch.nn.BatchNorm1d(4).named_buffers()), "can have a gradient"),
    "state dict": (lambda net: net.state_dict(), "can have a gradient"),
    "frozen": (lambda net: copy.deepcopy(net).requires_grad_(False), "can have a gradient"),
}


def small_net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))


def steps_with(rule, net, given, steps=3):
    for _ in range(steps):
        net.zero_grad()
        net(torch.ones(2, 8)).sum().backward()
        yield rule(given)


@every_rule
@pytest.mark.parametrize("kind", KEPT)
def test_parameters_that_never_have_a_gradient_are_refused(text, kind):
    give, reason = KEPT[kind]
    rule, net = parse(text), small_net()
    with pytest.raises(ValueError, match=reason):
        list(steps_with(rule, net, give(net)))


def test_single_steps_without_a_gradient_are_skipped():
    rule, net = parse("auto:50"), small_net()
    for _ in range(3):
        net.zero_grad()
        assert rule(net).skipped == "gradient is zero"
        assert not next(steps_with(rule, net, net)).skipped
    assert (rule.steps, rule.skipped) == (6, 3)


GIVEN = {
    "groups": lambda net: torch.optim.SGD(net.parameters(), 0.1).param_groups,
    "groups with names": lambda net: torch.optim.SGD(net.named_parameters(), 0.1).param_groups,
    "two groups": lambda net: torch.optim.SGD([{"params": m.parameters()} for m in (net[0], net[2])], 0.1).param_groups,
    "one group": lambda net: torch.optim.SGD(net.parameters(), 0.1).param_groups[0],
    "dictionary": lambda net: dict(net.named_parameters()),
    "twice": lambda net: [*net.parameters(), *net.parameters()],
    "twice, with two names": lambda net: [*net.named_parameters(), *net.named_parameters("again")],
    "groups that overlap": lambda net: [{"params": list(net.parameters())}, {"params": [net[0].weight]}],
}


@pytest.mark.parametrize("kind", GIVEN)
@pytest.mark.parametrize("text", ["norm:0.001", "value:0.001", "agc:0.001", "auto:50,per=tensor"])
def test_rule_takes_groups_and_counts_a_tensor_once(text, kind):
    plain, net = small_net(), small_net()
    want = list(steps_with(parse(text), plain, plain))
    got = list(steps_with(parse(text), net, GIVEN[kind](net)))
    assert [step.norm for step in got] == [step.norm for step in want]
    assert [step.factor for step in got] == [step.factor for step in want]
    assert [list(step.parts.values()) for step in got] == [list(step.parts.values()) for step in want]
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(net.parameters(), plain.parameters(), strict=True))


def test_groups_with_names_have_layers():
    net = small_net()
    (step,) = steps_with(parse("auto:50,per=layer"), net, GIVEN["groups with names"](net), steps=1)
    assert set(step.parts) == {"0", "2"}


@pytest.mark.parametrize("wrong", ["weights", 3, None, ["a"], [("a", 1)], [[1.0]], [torch.nn.Linear(1, 1)], {"a": 1}])
def test_other_arguments_are_refused(wrong):
    with pytest.raises(TypeError, match=r"is not a parameter: give a rule model.named_parameters\(\)"):
        parse("norm:1")(wrong)


# Names that decide the parts


class Trunk(torch.nn.Module):
    """A network with a submodule called ``module``, as if it were wrapped."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.module = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8))
        self.head = torch.nn.Linear(8, 1)

    def backward(self, step, scale=1.0, head=True):
        self.zero_grad()
        hidden = self.module(torch.randn(4, 8, generator=torch.Generator().manual_seed(step)))
        ((self.head(hidden) if head else hidden).sum() * scale).backward()


def with_gradient(net):
    return [(name, owner) for name, owner in net.named_parameters() if owner.grad is not None]


@pytest.mark.parametrize("give", [Trunk.named_parameters, with_gradient])
@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("text", ["auto:50,per=layer", "auto:50,per=tensor"])
def test_parts_do_not_depend_on_which_tensors_have_a_gradient(text, resume, give):
    """A spike in a step in which the head has no gradient is clipped against the history of its layer."""
    net, rule = Trunk(), parse(text)
    for step in range(30):
        net.backward(step)
        rule(give(net))
    if resume:
        state, rule = rule.state_dict(), parse(text)
        rule.load_state_dict(state)
    net.backward(30, scale=1e4, head=False)
    spike = rule(give(net))
    assert all(part.startswith("module.") and step.factor < 1e-2 for part, step in spike.parts.items())
    assert {len(norms) for part, norms in rule.state_dict()["histories"].items() if "module" in part} == {31}


def test_parts_stay_the_same_when_a_frozen_layer_joins():
    net, rule = Trunk(), parse("auto:50,per=layer")
    for step in range(6):
        net.backward(step, head=step > 2)
        rule(with_gradient(net))
    assert [len(norms) for norms in rule.state_dict()["histories"].values()] == [6, 6, 3]


def test_unnamed_tensors_must_stay_the_same_number():
    net, rule = Trunk(), parse("auto:50,per=tensor")
    net.backward(0)
    rule(net.parameters())
    net.backward(1, head=False)
    assert len(rule(net.parameters()).parts) == 4
    with pytest.raises(ValueError, match=r"got 4 tensors without names, 6 before: give all .*named_parameters\(\)"):
        rule([owner for _, owner in with_gradient(net)])
    restored = parse("auto:50,per=tensor")
    restored.load_state_dict(rule.state_dict())
    with pytest.raises(ValueError, match="got 4 tensors without names, 6 before"):
        restored([owner for _, owner in with_gradient(net)])


@pytest.mark.parametrize("per", ["layer", "tensor"])
def test_two_tensors_of_one_name_are_refused(per):
    net = small_net()
    net(torch.ones(1, 8)).sum().backward()
    pairs = [*net[0].named_parameters(), *net[2].named_parameters()]
    with pytest.raises(ValueError, match="two tensors of the same name"):
        parse(f"auto:50,per={per}")(pairs)
    assert not parse("auto:50")(pairs).skipped


@every_rule
def test_too_many_bad_steps_in_a_row_raise(text):
    rule = parse(f"{text},most_skipped=3")
    run(rule, [math.nan, 0, 1, math.inf, 0])  # never three in a row
    assert rule.skipped_in_a_row == 2
    owners = parameters(math.nan)
    with pytest.raises(TooManySkipped, match=r"3 steps in a row were skipped \(the last: gradient is not finite\)"):
        rule(owners)
    assert all(owner.grad is None for _, owner in owners)
    assert (rule.steps, rule.skipped) == (6, 5)


@every_rule
def test_state_resumes_a_run_exactly(text, tmp_path):
    norms = [*NORMS, math.nan, *np.exp(np.random.default_rng(1).normal(0, 2, 40)), 0, 0]
    straight = parse(text)
    want = run(straight, norms)
    for cut in (0, 1, 2, 7, 25, 48):
        first, second = parse(text), parse(text)
        head = run(first, norms[:cut])
        torch.save(first.state_dict(), tmp_path / "state")
        second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
        assert repr(head + run(second, norms[cut:])) == repr(want)  # NaN thresholds are not equal to themselves
        assert second.state_dict() == straight.state_dict()
        assert second.clipped_shares() == straight.clipped_shares()
        assert json.loads(json.dumps(second.state_dict(), allow_nan=False)) == second.state_dict()


@every_rule
def test_state_contains_every_counter(text):
    rule, again = parse(text), parse(text)
    run(rule, [*NORMS, math.nan, 0])
    again.load_state_dict(rule.state_dict())
    for key in ("steps", "clipped", "skipped", "skipped_in_a_row"):
        assert getattr(again, key) == getattr(rule, key)
    assert again.skipped_in_a_row >= 2


def test_percentile_may_change_between_runs_and_windows_may_shrink():
    first, second = AutoClip(90), AutoClip(10)
    run(first, NORMS[:4])
    second.load_state_dict(first.state_dict())
    assert [s.threshold for s in run(second, NORMS[4:])] == pytest.approx(THRESHOLDS[10][4:], rel=1e-6)
    wide, narrow = parse("auto:0,window=4"), parse("auto:0,window=2")
    run(wide, NORMS)
    narrow.load_state_dict(wide.state_dict())
    assert narrow.state_dict()["histories"][""] == pytest.approx([8, 0.5])


@pytest.mark.parametrize(
    ("text", "saved"),
    [
        *(("auto:10", "auto:10,window=9"), ("auto:10,window=9", "auto:10"), ("auto:10,window=9", "auto:10,window=8")),
        *(("auto:10", "auto:10,per=layer"), ("auto:10,per=tensor", "auto:10,per=layer")),
    ],
)
def test_incompatible_histories_are_refused(text, saved):
    rule = parse(text)
    run(rule, [1, 2])
    before = rule.state_dict()
    with pytest.raises(ValueError, match=f"the histories of '{saved}' cannot be used by {text}"):
        rule.load_state_dict(parse(saved).state_dict())
    assert rule.state_dict() == before


def test_state_of_another_kind_is_refused():
    for text in EXAMPLES:
        for saved in EXAMPLES:
            if parse(text).name != parse(saved).name:
                with pytest.raises(ValueError, match=f"the state belongs to the rule '{saved}', this is {text}"):
                    parse(text).load_state_dict(parse(saved).state_dict())


@every_rule
def test_incomplete_state_is_refused(text):
    for key in parse(text).state_dict():
        state = parse(text).state_dict()
        del state[key]
        with pytest.raises(ValueError, match=f"lacks {key}|the state belongs to the rule None"):
            parse(text).load_state_dict(state)


DAMAGE = [
    *((key, value) for key in ("steps", "clipped", "skipped") for value in (-1, 1.5, None, "7", [], True)),
    ("steps", 0),
    *(
        ("histories", value)
        for value in (None, [], {"": None}, {"": 3}, {"": "abc"}, {"": ["x"]}, {"": [[1.0]]}, {3: []})
    ),
    *(("histories", {"": [value]}) for value in (0.0, -1.0, math.nan, math.inf, None, 10**400)),
    *(("parts", value) for value in (None, [], {"a": 3}, {"a": [1]}, {"a": [1, 2]}, {"a": [0, 0]}, {"a": ["1", 0]})),
    *(("window", value) for value in ("9", [9], 2.5)),
    ("per", ["layer"]),
]


@pytest.mark.parametrize(("key", "value"), DAMAGE)
def test_damaged_state_of_autoclip_is_refused_and_changes_nothing(key, value):
    rule = parse("auto:50,window=4")
    run(rule, NORMS)
    before = rule.state_dict()
    with pytest.raises(ValueError, match=r"is damaged|cannot be used by"):
        rule.load_state_dict({**before, key: value})
    assert rule.state_dict() == before


@every_rule
def test_damaged_state_is_refused(text):
    rule = parse(text)
    run(rule, NORMS)
    for wrong in (None, [], "state", 3):
        with pytest.raises(ValueError, match="the state of a rule is a mapping"):
            parse(text).load_state_dict(wrong)
    for key in rule.memory:
        for wrong in (None, "x", [], math.nan, True, 10**400, -1.0 if key in rule.never_negative else {}):
            if (key, wrong) != ("seen", 10**400):  # many steps, but a whole number
                with pytest.raises(ValueError, match=f"is damaged: {key} is"):
                    parse(text).load_state_dict({**rule.state_dict(), key: wrong})


# Gradients of every kind


@pytest.mark.parametrize("kind", ["module", "named", "bare", "generator", "tensor"])
def test_rule_accepts_modules_named_and_bare_parameters(kind):
    layer = torch.nn.Linear(3, 1, bias=False)
    layer.weight.grad = torch.full((1, 3), 4.0)
    inputs = {
        "module": layer,
        "named": list(layer.named_parameters()),
        "bare": [layer.weight],
        "generator": layer.parameters(),
        "tensor": layer.weight,
    }
    step = parse("norm:1")(inputs[kind])
    assert step.norm == pytest.approx(48**0.5)
    assert layer.weight.grad.norm().item() == pytest.approx(1)


@pytest.mark.parametrize("norm", [1e-7, 1e-5, 1.0, 1e6])
def test_factor_is_exact_however_small_the_gradient(norm):
    owners = parameters(norm)
    before = copy.deepcopy(gradients(owners))
    step = parse(f"norm:{norm / 3:g}")(owners)
    assert step.factor == step.threshold / step.norm  # and not / (norm + 1e-6)
    assert all(torch.equal(new, old * step.factor) for new, old in zip(gradients(owners), before, strict=True))
    assert global_norm(gradients(owners)) == pytest.approx(step.threshold, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@every_clipping_rule
def test_rules_work_in_other_precisions(text, dtype):
    rule = parse(text)
    run(rule, NORMS[:4])
    owners = parameters(300.7, dtype)  # its square is beyond float16
    before = [gradient.to(torch.float64, copy=True) for gradient in gradients(owners)]
    step = rule(owners)
    assert step.norm == pytest.approx(torch.cat([g.flatten() for g in before]).norm().item(), rel=1e-6)  # as stored
    assert step.clipped or step.skipped
    for old, new in zip(before, gradients(owners), strict=False):
        assert new.dtype == dtype
        assert (new.abs() <= old.abs()).all()
    if step.clipped:
        rounding = 1 + torch.finfo(dtype).eps
        assert global_norm([g.double() for g in gradients(owners)]) <= step.threshold * rounding


def test_global_norm_of_mixed_precisions():
    mixed = [torch.full((3,), 2.0, dtype=d) for d in (torch.float32, torch.bfloat16, torch.float16, torch.float64)]
    assert global_norm(mixed) == pytest.approx(48**0.5, rel=1e-7)
    assert global_norm([torch.full((3,), 1e15), torch.full((1,), 1e30, dtype=torch.float64)]) == pytest.approx(1e30)
    assert global_norm([]) == 0


def test_global_norm_sums_tensors_in_float64():
    many = [torch.tensor([1.0]), *(torch.tensor([1e-4]) for _ in range(1000))]  # 1 + 1e-8 is 1 in float32
    assert global_norm(many) == pytest.approx((1 + 1000e-8) ** 0.5, rel=1e-12)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("text", [text for text in EXAMPLES[1:] if "agc" not in text])
def test_sparse_gradients_are_clipped_as_dense_ones(text):
    """A sparse gradient that contains a row twice must be clipped as the equal dense gradient."""
    sparse, dense = (torch.nn.Embedding(6, 3, sparse=kind) for kind in (True, False))
    rules = [parse(text), parse(text)]
    for norm in NORMS:
        factors = []
        for table, rule in zip((sparse, dense), rules, strict=True):
            table.zero_grad()
            table.weight.data.fill_(1)
            (table(torch.tensor([1, 4, 1])).sum() * (norm / 15**0.5)).backward()
            if table is sparse:  # uncoalesced, as after a sum over several batches
                g = table.weight.grad
                table.weight.grad = torch.sparse_coo_tensor(g._indices(), g._values(), g.shape, is_coalesced=False)
            factors.append(rule([("a.weight", table.weight)]).factor)
        assert factors[0] == pytest.approx(factors[1], rel=1e-6)
        if dense.weight.grad is None:
            assert sparse.weight.grad is None
        else:
            torch.testing.assert_close(sparse.weight.grad.to_dense(), dense.weight.grad)
        torch.optim.SparseAdam([sparse.weight]).step()


def test_agc_refuses_sparse_gradients():
    table = torch.nn.Embedding(3, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match=r"agc needs whole, dense gradients; that of weight is sparse or sharded"):
        parse("agc:0.1")(table.named_parameters())


@pytest.mark.filterwarnings("ignore:Sparse")
def test_other_layouts_are_refused():
    owner = torch.nn.Parameter(torch.eye(3).to_sparse_csr())
    owner.grad = torch.eye(3).to_sparse_csr()
    with pytest.raises(TypeError, match=r"the gradient of w is torch.sparse_csr: only torch.sparse_coo is supported"):
        parse("auto:10")([("w", owner)])


@every_clipping_rule
def test_complex_gradients_are_clipped(text):
    rule = parse(text)
    for norm in NORMS:
        owner = torch.nn.Parameter(torch.full((2, 2), 1 + 1j))
        owner.grad = torch.tensor([[3 + 4j, 0], [0, -2j]]) * (norm / 29**0.5)
        before = owner.grad.clone()
        step = rule([("a.weight", owner)])
        assert step.norm == pytest.approx(norm, rel=1e-6)
        if step.skipped:
            continue
        assert (owner.grad.abs() <= before.abs() * (1 + 1e-6)).all()
        assert owner.grad.abs().square().sum().sqrt() <= step.threshold * (1 + 1e-6)
        if "whole" in rule.traits:
            torch.testing.assert_close(owner.grad, before * step.factor)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_clipping_rule
def test_gradients_may_be_on_several_devices(text):
    one_device, two_devices = parse(text), parse(text)
    for norm in NORMS:
        owners = parameters(norm)
        moved = [(n, torch.nn.Parameter(p.detach().to("cuda" if i % 2 else "cpu"))) for i, (n, p) in enumerate(owners)]
        for (_, p), (_, q) in zip(owners, moved, strict=True):
            q.grad = None if p.grad is None else p.grad.to(q.device)
        want, got = one_device(owners), two_devices(moved)
        assert got.factor == pytest.approx(want.factor, rel=1e-6)
        for expected, actual in zip(gradients(owners), gradients(moved), strict=True):
            torch.testing.assert_close(expected, actual.cpu())


@pytest.mark.parametrize("text", ["norm:1", "value:0.1", "agc:0.1", "auto:0,per=tensor"])
def test_clipping_is_not_part_of_the_graph(text):
    weight, scale = torch.nn.Parameter(torch.ones(3)), torch.tensor([1.0, 2, 3], requires_grad=True)
    rule = parse(text)
    for size in (1.0, 2.0):
        (weight.grad,) = torch.autograd.grad((size * weight**3 * scale).sum(), weight, create_graph=True)
        assert rule([weight]).clipped == (text[0] != "a" or size == 2 or "agc" in text)
    weight.grad.sum().backward(inputs=[scale])
    torch.testing.assert_close(scale.grad, torch.full((3,), 6.0))


@pytest.mark.parametrize("text", ["norm:1", "value:0.1"])
def test_conjugated_gradients_are_clipped(text):
    weight = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.cfloat))
    (torch.ones(2, 2, dtype=torch.cfloat) @ weight.mH).abs().square().sum().backward()
    before = weight.grad.clone().resolve_conj()
    assert weight.grad.is_conj()
    step = parse(text)([weight])
    if text[0] == "n":
        torch.testing.assert_close(weight.grad.resolve_conj(), before * step.factor)


def test_zero_3_is_refused():
    owner = torch.nn.Parameter(torch.ones(2))
    owner.grad, owner.ds_id = torch.ones(2), 7
    with pytest.raises(TypeError, match="is a shard"):
        parse("auto:10")([owner])


def test_too_many_skipped_is_a_runtime_error():
    assert issubclass(TooManySkipped, RuntimeError)


def test_accumulation_gives_one_entry_an_optimizer_step():
    network, rule = torch.nn.Linear(3, 1), parse("auto:10")
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for micro in range(12):
        (network(torch.ones(1, 3)).sum() / 4).backward()
        if micro % 4 == 3:
            rule(network.named_parameters())
            optimizer.step()
            optimizer.zero_grad()
    assert rule.state_dict()["histories"][""] == pytest.approx([2.0] * 3)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
    ],
)
def test_overflow_under_a_grad_scaler_leaves_no_trace(device):
    network = torch.nn.Linear(3, 1).to(device)
    optimizer, scaler, rule = torch.optim.SGD(network.parameters(), 0.1), torch.amp.GradScaler(device), parse("auto:50")
    weights = []
    for loss_scale in (1.0, math.inf, 4.0):
        optimizer.zero_grad()
        scaler.scale(network(torch.ones(1, 3, device=device)).sum() * loss_scale).backward()
        scaler.unscale_(optimizer)
        rule(network.named_parameters())
        scaler.step(optimizer)
        scaler.update()
        weights.append(network.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert rule.state_dict()["histories"][""] == pytest.approx([2, 8])  # norms of the unscaled gradient: four ones
    assert (rule.clipped, rule.skipped) == (1, 1)
