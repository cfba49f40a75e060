"""The optimizer hook equals a loop with the rule called by hand, with schedulers, scalers and checkpoints."""

import copy
import io
import math
import warnings

import pytest
import torch

from sepclip.clip import AutoClip, TooManySkipped, parse
from sepclip.integrations.optimizer import KEY, OptimizerClip, clip_before_step
from tests.integrations.plain import RULE, RULES, Names, adam, batches, loss, network, same, train

MAKERS = {
    "Adam": adam,
    "fused Adam": lambda net: torch.optim.Adam(net.parameters(), lr=0.05, fused=True),
    "SGD with momentum": lambda net: torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9),
    "AdamW, two groups": lambda net: torch.optim.AdamW(
        [{"params": net[0].parameters()}, {"params": net[2].parameters(), "weight_decay": 0.1}], lr=0.05
    ),
}
every_optimizer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def hooked(data, make=adam, accumulate=1, decay_every=0, scaler=None, unscale=False, rule=RULE):
    """Train with the hook; the same loop as ``train``, less the rule."""
    net = network()
    optimizer = make(net)
    clip = clip_before_step(optimizer, rule, net.named_parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, decay_every or 10**9, gamma=0.5)
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    for number, batch in enumerate(data, 1):
        scaler.scale(loss(net, batch) / accumulate).backward()
        if number % accumulate:
            continue
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        optimizer.zero_grad()
    return net, clip


@every_optimizer
@pytest.mark.parametrize("text", RULES)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_hook_equals_the_rule_by_hand_bit_for_bit(make, accumulate, text):
    rule, data = parse(text), batches(24)
    net, clip = hooked(data, make, accumulate, decay_every=3, rule=text)
    assert same(net, train(rule, data, accumulate, make, decay_every=3))
    assert clip.rule.state_dict() == rule.state_dict()
    assert clip.rule.steps == 24 // accumulate
    assert 0 < clip.rule.clipped < clip.rule.steps
    assert clip.last.norm > 0


@every_optimizer
@pytest.mark.parametrize("unscale", [False, True])
def test_a_grad_scaler_changes_nothing(make, unscale):
    """Unfused optimizers are unscaled by scaler.step() before the hook, fused ones by the hook."""
    data = batches(12)
    plain, by_hand = hooked(data, make)
    scaled, clip = hooked(data, make, scaler=torch.amp.GradScaler("cpu", init_scale=2.0**12), unscale=unscale)
    assert same(plain, scaled)
    assert clip.rule.state_dict() == by_hand.rule.state_dict()


@every_optimizer
@pytest.mark.parametrize("unscale", [False, True])
def test_step_dropped_by_the_scaler_is_not_in_the_history(make, unscale):
    net, clip = hooked(batches(7, bad=[3]), make, scaler=torch.amp.GradScaler("cpu"), unscale=unscale)
    assert (clip.rule.steps, clip.rule.skipped) == (6, 0)
    assert all(parameter.isfinite().all() for parameter in net.parameters())


@every_optimizer
def test_bad_batch_moves_nothing_and_warns_once(make):
    with pytest.warns(RuntimeWarning, match="optimizer step 6 is skipped: gradient is not finite") as warned:
        net, clip = hooked(batches(8, bad=[5, 6, 7]), make)
    assert len(warned) == 1
    assert clip.rule.skipped == 3
    assert same(net, hooked(batches(5), make)[0])


def test_too_many_bad_steps_end_the_training():
    with pytest.raises(TooManySkipped), pytest.warns(RuntimeWarning):
        hooked(batches(5, bad=range(5)), rule=AutoClip(10, most_skipped=4))


@every_optimizer
def test_resumed_run_equals_the_uninterrupted_one(make):
    data = batches(16)
    straight, whole = hooked(data, make)
    net, clip = hooked(data[:7], make)
    file = io.BytesIO()
    torch.save([net.state_dict(), clip.optimizer.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    resumed = network(seed=5)
    resumed.load_state_dict(weights)
    optimizer = make(resumed)
    clip = clip_before_step(optimizer, RULE, resumed.named_parameters())
    optimizer.load_state_dict(state)
    for batch in data[7:]:
        optimizer.zero_grad()
        loss(resumed, batch).backward()
        optimizer.step()
    assert same(resumed, straight)
    assert clip.rule.state_dict() == whole.rule.state_dict()


def test_state_without_a_history_warns():
    net = network()
    bare = adam(net).state_dict()
    optimizer = adam(net)
    clip_before_step(optimizer, RULE)
    with pytest.warns(RuntimeWarning, match="no history of a clipping rule: auto:50 starts with an empty history"):
        optimizer.load_state_dict(bare)


def test_a_state_with_a_history_loads_into_a_bare_optimizer():
    _, clip = hooked(batches(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adam(network()).load_state_dict(clip.optimizer.state_dict())


def test_a_state_that_the_optimizer_refuses_changes_no_history():
    _, clip = hooked(batches(3))
    state = copy.deepcopy(clip.optimizer.state_dict())
    state["param_groups"] = []
    state[KEY]["steps"] = 99
    with pytest.raises(ValueError, match="parameter groups"):
        clip.optimizer.load_state_dict(state)
    assert clip.rule.steps == 3


def test_a_state_of_another_kind_of_rule_is_refused():
    _, clip = hooked(batches(3))
    optimizer = adam(network())
    clip_before_step(optimizer, "norm:1")
    with pytest.raises(ValueError, match=r"belongs to the rule 'auto:50'.*give clip_before_step fresh=True"):
        optimizer.load_state_dict(clip.optimizer.state_dict())


def test_fresh_rule_ignores_a_saved_history():
    _, clip = hooked(batches(3))
    optimizer = adam(network())
    fresh = clip_before_step(optimizer, "norm:1", fresh=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.load_state_dict(clip.optimizer.state_dict())
    assert fresh.rule.steps == 0
    assert len(optimizer.state) == 4  # the moments are loaded


def test_a_closure_is_refused():
    net = network()
    optimizer = torch.optim.LBFGS(net.parameters())
    clip_before_step(optimizer, RULE)
    with pytest.raises(TypeError, match="without a closure"):
        optimizer.step(lambda: loss(net, batches(1)[0]))


def test_an_optimizer_that_wants_the_scaler_itself_is_refused():
    class Old(torch.optim.SGD):
        _step_supports_amp_scaling = True

        def step(self, closure=None, *, grad_scaler=None):
            return super().step(closure)

    with pytest.raises(TypeError, match="grad_scaler"), pytest.warns(FutureWarning):
        hooked(batches(1), lambda net: Old(net.parameters(), lr=0.1), scaler=torch.amp.GradScaler("cpu"))


def test_the_rule_gets_the_names_of_the_model():
    data = batches(1)
    rule = Names()
    for make, names in (
        (
            lambda net: clip_before_step(adam(net), rule, net.named_parameters()),
            ["0.weight", "0.bias", "2.weight", "2.bias"],
        ),
        (
            lambda net: clip_before_step(torch.optim.SGD(net.named_parameters()), rule),
            ["0.weight", "0.bias", "2.weight", "2.bias"],
        ),
        (
            lambda net: clip_before_step(torch.optim.SGD(net[2].parameters()), rule, net.named_parameters()),
            ["2.weight", "2.bias"],
        ),
    ):
        net = network()
        clip = make(net)
        loss(net, data[0]).backward()
        clip.optimizer.step()
        assert clip.rule.seen == names


def test_a_parameter_without_a_name_is_refused():
    net = network()
    with pytest.raises(ValueError, match=r"2 tensors without a name, of shapes \[\(1, 6\), \(1,\)\]"):
        clip_before_step(adam(net), RULE, net[0].named_parameters())


def test_parameters_added_later_are_clipped_too():
    net = network()
    optimizer = torch.optim.SGD(net[2].parameters(), lr=0.1)
    clip = clip_before_step(optimizer, "norm:0.001", net.named_parameters())
    optimizer.add_param_group({"params": net[0].parameters()})
    loss(net, batches(1)[0]).backward()
    optimizer.step()
    assert math.sqrt(sum(float(p.grad.square().sum()) for p in net.parameters())) == pytest.approx(0.001)
    assert clip.rule.clipped == 1


def test_model_gives_the_names_of_parameters_that_it_gets_later():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    clips = clip_before_step(optimizer, "auto:50,per=layer", net)
    net.append(torch.nn.Linear(1, 1))
    optimizer.add_param_group({"params": net[3].parameters()})
    loss(net, batches(1)[0]).backward()
    optimizer.step()
    assert set(clips.last.parts) == {"0", "2", "3"}


def test_unknown_parameter_during_training_is_refused_with_a_remedy():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    clip_before_step(optimizer, RULE, net.named_parameters())
    net.append(torch.nn.Linear(1, 1))
    optimizer.add_param_group({"params": net[3].parameters()})
    loss(net, batches(1)[0]).backward()
    with pytest.raises(ValueError, match=r"2 tensors without a name.*give clip_before_step the model itself"):
        optimizer.step()


@pytest.mark.filterwarnings("ignore:.*no parameter of the optimizer has a gradient")
def test_optimizer_that_is_used_now_and_then_is_clipped_when_it_is_used():
    net = network()
    clip = clip_before_step(adam(net), RULE, net)
    for number, batch in enumerate(batches(9), 1):
        clip.optimizer.zero_grad()
        if number % 3 == 0:
            loss(net, batch).backward()
        clip.optimizer.step()
    assert (clip.rule.steps, clip.rule.skipped) == (3, 0)


def test_two_rules_on_one_optimizer_are_refused_and_remove_frees_it():
    net = network()
    optimizer = adam(net)
    clip = clip_before_step(optimizer, RULE)
    with pytest.raises(ValueError, match="clipped already"):
        clip_before_step(optimizer, "norm:1")
    clip.remove()
    loss(net, batches(1)[0]).backward()
    optimizer.step()
    assert clip.last is None
    assert KEY not in optimizer.state_dict()
    assert isinstance(clip_before_step(optimizer, "norm:1"), OptimizerClip)


def test_a_rule_given_to_two_optimizers_keeps_two_histories():
    rule = parse(RULE)
    first, second = (hooked(batches(count), rule=rule)[1] for count in (2, 5))
    assert (first.rule.steps, second.rule.steps, rule.steps) == (2, 5, 0)


def test_split_parameters_are_clipped_by_the_norm_of_the_whole(tmp_path):
    """As FSDP2 splits them, here over one process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        net = torch.distributed.tensor.distribute_module(network(), mesh)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        clip = clip_before_step(optimizer, "norm:0.001", net.named_parameters())
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        count = sum(parameter.numel() for parameter in net.parameters())
        assert clip.last.norm == pytest.approx(math.sqrt(count))
        assert float(net[0].bias.grad.full_tensor()[0]) == pytest.approx(0.001 / math.sqrt(count))
    finally:
        torch.distributed.destroy_process_group()


def test_objects_that_are_not_optimizers_are_refused():
    with pytest.raises(TypeError, match="not a torch optimizer"):
        clip_before_step(torch.optim.lr_scheduler.StepLR(adam(network()), 1).__dict__, RULE)
    with pytest.raises(ValueError, match="auto:101"):
        clip_before_step(adam(network()), "auto:101")
