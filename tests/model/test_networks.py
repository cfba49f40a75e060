import pytest
import torch

from sepclip.config.load import load_config
from sepclip.model.networks import NETWORKS, build_network, dropout
from tests.model.build import network_settings

SMALL = {"blstm": {"layers": 2, "hidden": 6, "dropout": 0.3, "embedding_size": 4}, "conv-tasnet": {}}
SMALL["conv-tasnet"] = {"filter_length": 16, "repeats": 2}
BOTH = ("mask", "embedding")


def small_network(name="blstm", seed=0, heads=BOTH, **changes):
    sizes = {key: changes.pop(key, default) for key, default in (("bins", 9), ("sources", 2))}
    return build_network(
        name, seed, heads=heads, settings=network_settings(name, **{**SMALL.get(name, {}), **changes}), **sizes
    )


def network_input(name):
    """Return an input of the network: magnitudes or waves."""
    return (
        torch.randn(2, 503, generator=torch.Generator().manual_seed(0)) if NETWORKS[name].takes_waves else magnitude()
    )


def tensors(outputs):
    """Return outputs with embeddings as vectors of unit norm."""
    return {head: x if torch.is_tensor(x) else x.unit() for head, x in outputs.items()}


def magnitude(batch=2, frames=7, seed=0):
    return torch.rand(batch, frames, 9, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("heads", "layers", "hidden", "parameters"),
    [
        (("mask",), 4, 600, 29_767_460),
        (("embedding",), 4, 600, 32_556_182),
        (BOTH, 4, 600, 32_866_040),
        (("mask",), 2, 300, 3_354_260),
    ],
)
def test_parameter_counts_of_the_paper(heads, layers, hidden, parameters):
    with torch.device("meta"):  # shapes without the memory
        full = small_network(heads=heads, layers=layers, hidden=hidden, bins=129, embedding_size=20)
    assert sum(p.numel() for p in full.parameters()) == parameters  # the 2 of the batch normalisation included


def test_parameter_count_of_conv_tasnet():
    with torch.device("meta"):
        full = build_network(
            "conv-tasnet",
            0,
            bins=129,
            sources=2,
            heads=["wave"],
            settings=load_config("conv-tasnet").network_settings(),
        )
    # 5.1 M in the paper, which has the same sizes
    block = (128 * 512 + 512) + (1 + 1024) + (512 * 3 + 512) + (1 + 1024) + 2 * (512 * 128 + 128)
    stack = 24 * block - (512 * 128 + 128)  # nothing follows the last block but the sum
    around = 2 * 16 * 512 + 1024 + (512 * 128 + 128) + 1 + (128 * 1024 + 1024)
    assert sum(p.numel() for p in full.parameters()) == stack + around == 4_984_881


def test_heads_have_their_shapes_and_ranges():
    outputs = small_network()(magnitude())
    assert set(outputs) == set(BOTH)
    assert outputs["mask"].shape == (2, 2, 7, 9)
    vectors = outputs["embedding"].unit()
    assert vectors.shape == (2, 7, 9, 4)
    assert outputs["mask"].min() > 0
    assert outputs["mask"].max() < 1
    assert (outputs["mask"].sum(1) - 1).abs().max() > 1e-3  # sigmoid, not softmax
    assert vectors.min() >= 0
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2, 7, 9))


@pytest.mark.parametrize("head", BOTH)
def test_network_builds_only_the_requested_heads(head):
    assert list(small_network(heads=(head,))(magnitude())) == [head]


@pytest.mark.parametrize("sources", [1, 2, 3])
@pytest.mark.parametrize("filter_length", [2, 16, 21])
@pytest.mark.parametrize("samples", [1, 7, 8, 503])
def test_conv_tasnet_returns_a_wave_of_the_same_length_per_source(sources, filter_length, samples):
    mixture = torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    waves = small_network("conv-tasnet", sources=sources, filter_length=filter_length)(mixture)["wave"]
    assert waves.shape == (2, sources, samples)
    assert waves.isfinite().all()


def test_conv_tasnet_masks_have_the_range_of_their_activation():
    captured = []
    for kind in ("sigmoid", "relu"):
        network = small_network("conv-tasnet", mask_activation=kind)
        network.net.mask_generator.register_forward_hook(lambda _, __, masks: captured.append(masks))
        network(network_input("conv-tasnet"))
    assert 0 < captured[0].min() < captured[0].max() < 1
    assert captured[1].min() == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_items_of_a_batch_are_independent(name):
    network, batch = small_network(name).eval(), network_input(name)
    for head, both in tensors(network(batch)).items():
        torch.testing.assert_close(tensors(network(batch[1:]))[head], both[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sigmoid", "softmax", "relu", "none"])
def test_mask_activation_is_applied(name):
    masks = small_network(mask_activation=name)(100 * magnitude())["mask"]  # (B, S, N, F)
    torch.manual_seed(0)  # the same dropout
    raw = small_network(mask_activation="none").eval()(magnitude())["mask"]
    result = small_network(mask_activation=name).eval()(magnitude())["mask"]
    expected = {
        "sigmoid": 1 / (1 + torch.exp(-raw)),
        "softmax": raw.exp() / raw.exp().sum(1, keepdim=True),
        "relu": raw.clamp_min(0),
        "none": raw,
    }
    assert raw.min() < 0 < raw.max()
    torch.testing.assert_close(result, expected[name])
    if name == "softmax":
        torch.testing.assert_close(masks.sum(1), torch.ones(2, 7, 9))


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "none"])
def test_embedding_activation_is_applied(name):
    direct = small_network().eval()
    captured = []
    direct.heads["embedding"].register_forward_hook(lambda _, __, output: captured.append(output))
    direct(magnitude())
    raw = captured[0].reshape(2, 7, 9, 4)
    expected = {"sigmoid": raw.sigmoid(), "tanh": raw.tanh(), "none": raw}[name]
    result = small_network(embedding_activation=name).eval()(magnitude())["embedding"].unit()
    torch.testing.assert_close(result, expected / expected.norm(dim=-1, keepdim=True))


@pytest.mark.parametrize(("recurrence", "gates"), [("lstm", 4), ("gru", 3)])
def test_gates_that_keep_the_memory_begin_at_two_and_all_other_biases_at_zero(recurrence, gates):
    network = small_network(recurrence=recurrence)
    assert network.recurrent[0].weight_hh_l0.shape == (gates * 6, 6)
    assert all(layer.bidirectional for layer in network.recurrent)
    for name, parameter in network.named_parameters():
        if "bias" in name and not name.startswith("norm."):
            expected = torch.zeros_like(parameter)
            if name.startswith("recurrent."):
                expected[6:12] = 1  # once in each of the two biases that are added
            assert torch.equal(parameter, expected), name


@pytest.mark.parametrize("recurrence", ["lstm", "gru"])
def test_an_open_gate_is_the_one_that_keeps_the_memory(recurrence):
    # with a bias of 50 instead of 1, the state can only be what it was: the hidden state of a GRU, the cell of an LSTM
    network = small_network(recurrence=recurrence, layers=1)
    with torch.no_grad():
        for name, parameter in network.recurrent[0].named_parameters():
            if "bias" in name:
                parameter.mul_(50)
    before = torch.rand(2, 1, 6, generator=torch.Generator().manual_seed(0))
    if recurrence == "gru":
        _, after = network.recurrent[0](torch.zeros(1, 5, 9), before)
    else:  # nothing is added to the cell: input 0, state 0, and the candidate tanh(0)
        with torch.no_grad():
            network.recurrent[0].weight_hh_l0.zero_(), network.recurrent[0].weight_hh_l0_reverse.zero_()
        _, (_, after) = network.recurrent[0](torch.zeros(1, 5, 9), (torch.zeros_like(before), before))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recurrence", ["lstm", "gru"])
def test_torch_initialisation_is_kept(recurrence):
    network = small_network(recurrence=recurrence, init="torch", hidden=50)
    for name, parameter in network.recurrent.named_parameters():
        assert parameter.abs().max() <= 50**-0.5, name  # uniform between +- 1 / sqrt(hidden)
        assert parameter.abs().mean().item() == pytest.approx(50**-0.5 / 2, rel=0.2), name


def test_weights_are_xavier_normal():
    weight = small_network(hidden=200).recurrent[1].weight_hh_l0  # (800, 200)
    assert weight.std().item() == pytest.approx((2 / 1000) ** 0.5, rel=0.01)  # 4 standard errors of 160,000 draws
    assert (weight.abs() > 2 * weight.std()).float().mean().item() == pytest.approx(0.0455, abs=0.003)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_depend_only_on_the_seed(name):
    first = small_network(name, seed=5).state_dict()
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    second = small_network(name, seed=5).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)  # and building moves no other randomness
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = small_network(name, seed=6).state_dict()
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_magnitudes_below_80_db_do_not_count():
    evaluated = small_network().eval()
    quiet = magnitude() * 1e-4
    for head, output in tensors(evaluated(quiet)).items():
        assert torch.equal(output, tensors(evaluated(torch.zeros_like(quiet)))[head])
        assert not torch.equal(output, tensors(evaluated(quiet * 10))[head])


def test_encode_and_decode_equal_forward():
    network = small_network().eval()
    halves, whole = network.encode(magnitude()), tensors(network(magnitude()))
    halves = {head: network.decode(halves, head) for head in BOTH}
    assert set(halves) == set(whole)
    assert all(torch.equal(halves[head], whole[head]) for head in whole)


@pytest.mark.parametrize(("kind", "axes"), [("all", (0, 1, 2)), ("bins", (0, 1))])
def test_input_is_centred(kind, axes):
    trained, captured = small_network(input_norm=kind), []
    trained.recurrent[0].register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    louder_and_louder = torch.logspace(-3, 0, 9)
    trained(magnitude() * louder_and_louder)
    mean, deviation = captured[0].mean(axes), captured[0].std(axes, correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-5)
    torch.testing.assert_close(deviation, torch.ones_like(mean), rtol=0, atol=1e-5)
    assert trained.norm.running_mean.numel() == mean.numel() == (1 if kind == "all" else 9)
    # with one scale for all bins, a louder bin stays louder
    assert (captured[0][..., 8].mean() - captured[0][..., 0].mean() > 2) == (kind == "all")


def test_input_norm_none_leaves_the_input_unchanged():
    plain, captured = small_network(input_norm="none"), []
    plain.recurrent[0].register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    plain(magnitude())
    torch.testing.assert_close(captured[0], 20 * magnitude().log10())
    assert not [name for name in plain.state_dict() if "norm" in name]


@pytest.mark.parametrize("recurrence", ["lstm", "gru"])
def test_recurrent_layers_equal_those_of_torch(recurrence):
    """Layer by layer is torch's own stack."""
    network = small_network(recurrence=recurrence, layers=3, input_norm="none").eval()
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[recurrence]
    stack = kind(9, 6, 3, batch_first=True, bidirectional=True)
    for index, layer in enumerate(network.recurrent):
        for name, value in layer.named_parameters():
            getattr(stack, name.replace("_l0", f"_l{index}")).data.copy_(value)
    outputs = []
    network.heads["mask"].register_forward_pre_hook(lambda _, inputs: outputs.append(inputs[0]))
    network(magnitude())
    expected, _ = stack(20 * magnitude().log10())
    assert torch.equal(outputs[0], expected)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_dropout_keeps_its_share_and_the_mean(share, kind):
    torch.manual_seed(0)
    x = torch.full((3, 333, 401), 2.0, dtype=kind, requires_grad=True)  # 400,599: no multiple of 4
    result = dropout(x, share)
    assert result.dtype == kind
    kept = result != 0
    spread = (share * (1 - share) / x.numel()) ** 0.5
    assert kept.double().mean().item() == pytest.approx(1 - share, abs=5 * spread)
    scale = 1 / (1 - round(share * 2**16) / 2**16)
    torch.testing.assert_close(result[kept], torch.full_like(result[kept], 2 * scale))
    result.sum().backward()
    torch.testing.assert_close(x.grad, result.detach() / 2)
    assert torch.equal(dropout(x, share), result) == (share == 0)
    torch.manual_seed(0)
    assert torch.equal(dropout(x, share), result)
    # neighbours, which come from the same draw, know nothing of each other
    flat = kept.flatten()[:400_000].double().reshape(-1, 4)
    assert share == 0 or (torch.corrcoef(flat.mT) - torch.eye(4)).abs().max() < 0.02


@pytest.mark.parametrize("layers", [1, 2])
def test_dropout_acts_between_layers_and_in_training_only(layers):
    network = small_network(layers=layers)
    assert torch.equal(network(magnitude())["mask"], network(magnitude())["mask"]) == (layers == 1)
    network.eval()
    assert torch.equal(network(magnitude())["mask"], network(magnitude())["mask"])
