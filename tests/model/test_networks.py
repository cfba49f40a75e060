import pytest
import torch

from sepclip.config.load import load_config
from sepclip.model.networks import NETWORKS, build_network, dropout
from tests.model.build import network_settings

SMALL = {"blstm": {"layers": 2, "hidden": 6, "dropout": 0.3, "embedding_size": 4}, "conv-tasnet": {}}
SMALL["conv-tasnet"] = {"filter_length": 16, "repeats": 2}
BOTH = ("mask", "embedding")


def network(name="blstm", seed=0, heads=BOTH, **changes):
    sizes = {key: changes.pop(key, default) for key, default in (("bins", 9), ("sources", 2))}
    return build_network(
        name, seed, heads=heads, settings=network_settings(name, **{**SMALL[name], **changes}), **sizes
    )


def given(name):
    """Return what the network takes: magnitudes or waves."""
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
        full = network(heads=heads, layers=layers, hidden=hidden, bins=129, embedding_size=20)
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
    outputs = network()(magnitude())
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
def test_only_the_heads_asked_for_are_built(head):
    assert list(network(heads=(head,))(magnitude())) == [head]


@pytest.mark.parametrize("sources", [1, 2, 3])
@pytest.mark.parametrize("filter_length", [2, 16, 21])
@pytest.mark.parametrize("samples", [1, 7, 8, 503])
def test_conv_tasnet_gives_a_wave_of_the_same_length_a_source(sources, filter_length, samples):
    mixture = torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    waves = network("conv-tasnet", sources=sources, filter_length=filter_length)(mixture)["wave"]
    assert waves.shape == (2, sources, samples)
    assert waves.isfinite().all()


def test_masks_of_conv_tasnet_are_of_the_kind_asked_for():
    seen = []
    for kind in ("sigmoid", "relu"):
        made = network("conv-tasnet", mask_activation=kind)
        made.net.mask_generator.register_forward_hook(lambda _, __, masks: seen.append(masks))
        made(given("conv-tasnet"))
    assert 0 < seen[0].min() < seen[0].max() < 1
    assert seen[1].min() == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_items_of_a_batch_do_not_meet(name):
    some, batch = network(name).eval(), given(name)
    for head, both in tensors(some(batch)).items():
        torch.testing.assert_close(tensors(some(batch[1:]))[head], both[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sigmoid", "softmax", "relu", "none"])
def test_activations_of_masks(name):
    masks = network(mask_activation=name)(100 * magnitude())["mask"]  # (B, S, N, F)
    torch.manual_seed(0)  # the same dropout
    raw = network(mask_activation="none").eval()(magnitude())["mask"]
    got = network(mask_activation=name).eval()(magnitude())["mask"]
    want = {
        "sigmoid": 1 / (1 + torch.exp(-raw)),
        "softmax": raw.exp() / raw.exp().sum(1, keepdim=True),
        "relu": raw.clamp_min(0),
        "none": raw,
    }
    assert raw.min() < 0 < raw.max()
    torch.testing.assert_close(got, want[name])
    if name == "softmax":
        torch.testing.assert_close(masks.sum(1), torch.ones(2, 7, 9))


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "none"])
def test_activations_of_embeddings(name):
    direct = network().eval()
    seen = []
    direct.heads["embedding"].register_forward_hook(lambda _, __, output: seen.append(output))
    direct(magnitude())
    raw = seen[0].reshape(2, 7, 9, 4)
    want = {"sigmoid": raw.sigmoid(), "tanh": raw.tanh(), "none": raw}[name]
    got = network(embedding_activation=name).eval()(magnitude())["embedding"].unit()
    torch.testing.assert_close(got, want / want.norm(dim=-1, keepdim=True))


@pytest.mark.parametrize(("recurrence", "gates"), [("lstm", 4), ("gru", 3)])
def test_gates_that_keep_the_memory_begin_at_two_and_all_other_biases_at_zero(recurrence, gates):
    made = network(recurrence=recurrence)
    assert made.recurrent[0].weight_hh_l0.shape == (gates * 6, 6)
    assert all(layer.bidirectional for layer in made.recurrent)
    for name, parameter in made.named_parameters():
        if "bias" in name and not name.startswith("norm."):
            want = torch.zeros_like(parameter)
            if name.startswith("recurrent."):
                want[6:12] = 1  # once in each of the two biases that are added
            assert torch.equal(parameter, want), name


@pytest.mark.parametrize("recurrence", ["lstm", "gru"])
def test_an_open_gate_is_the_one_that_keeps_the_memory(recurrence):
    # with a bias of 50 instead of 1, the state can only be what it was: the hidden state of a GRU, the cell of an LSTM
    made = network(recurrence=recurrence, layers=1)
    with torch.no_grad():
        for name, parameter in made.recurrent[0].named_parameters():
            if "bias" in name:
                parameter.mul_(50)
    before = torch.rand(2, 1, 6, generator=torch.Generator().manual_seed(0))
    if recurrence == "gru":
        _, after = made.recurrent[0](torch.zeros(1, 5, 9), before)
    else:  # nothing is added to the cell: input 0, state 0, and the candidate tanh(0)
        with torch.no_grad():
            made.recurrent[0].weight_hh_l0.zero_(), made.recurrent[0].weight_hh_l0_reverse.zero_()
        _, (_, after) = made.recurrent[0](torch.zeros(1, 5, 9), (torch.zeros_like(before), before))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recurrence", ["lstm", "gru"])
def test_initialisation_of_torch_is_left_alone(recurrence):
    made = network(recurrence=recurrence, init="torch", hidden=50)
    for name, parameter in made.recurrent.named_parameters():
        assert parameter.abs().max() <= 50**-0.5, name  # uniform between +- 1 / sqrt(hidden)
        assert parameter.abs().mean().item() == pytest.approx(50**-0.5 / 2, rel=0.2), name


def test_weights_are_xavier_normal():
    weight = network(hidden=200).recurrent[1].weight_hh_l0  # (800, 200)
    assert weight.std().item() == pytest.approx((2 / 1000) ** 0.5, rel=0.01)  # 4 standard errors of 160,000 draws
    assert (weight.abs() > 2 * weight.std()).float().mean().item() == pytest.approx(0.0455, abs=0.003)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_depend_on_the_seed_alone(name):
    first = network(name, seed=5).state_dict()
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    second = network(name, seed=5).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)  # and building moves no other randomness
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = network(name, seed=6).state_dict()
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_what_is_below_80_db_does_not_count():
    evaluated = network().eval()
    quiet = magnitude() * 1e-4
    for head, output in tensors(evaluated(quiet)).items():
        assert torch.equal(output, tensors(evaluated(torch.zeros_like(quiet)))[head])
        assert not torch.equal(output, tensors(evaluated(quiet * 10))[head])


def test_decoding_is_the_second_half_with_embeddings_of_unit_norm():
    made = network().eval()
    halves, whole = made.encode(magnitude()), tensors(made(magnitude()))
    halves = {head: made.decode(halves, head) for head in BOTH}
    assert set(halves) == set(whole)
    assert all(torch.equal(halves[head], whole[head]) for head in whole)


@pytest.mark.parametrize(("kind", "axes"), [("all", (0, 1, 2)), ("bins", (0, 1))])
def test_input_is_centred(kind, axes):
    trained, seen = network(input_norm=kind), []
    trained.recurrent[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    louder_and_louder = torch.logspace(-3, 0, 9)
    trained(magnitude() * louder_and_louder)
    mean, deviation = seen[0].mean(axes), seen[0].std(axes, correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-5)
    torch.testing.assert_close(deviation, torch.ones_like(mean), rtol=0, atol=1e-5)
    assert trained.norm.running_mean.numel() == mean.numel() == (1 if kind == "all" else 9)
    # with one scale for all bins, a louder bin stays louder
    assert (seen[0][..., 8].mean() - seen[0][..., 0].mean() > 2) == (kind == "all")


def test_input_may_be_left_as_it_is():
    plain, seen = network(input_norm="none"), []
    plain.recurrent[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    plain(magnitude())
    torch.testing.assert_close(seen[0], 20 * magnitude().log10())
    assert not [name for name in plain.state_dict() if "norm" in name]


@pytest.mark.parametrize("recurrence", ["lstm", "gru"])
def test_layers_are_those_of_torch(recurrence):
    """Layer by layer is torch's own stack."""
    made = network(recurrence=recurrence, layers=3, input_norm="none").eval()
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[recurrence]
    stack = kind(9, 6, 3, batch_first=True, bidirectional=True)
    for index, layer in enumerate(made.recurrent):
        for name, value in layer.named_parameters():
            getattr(stack, name.replace("_l0", f"_l{index}")).data.copy_(value)
    outputs = []
    made.heads["mask"].register_forward_pre_hook(lambda _, inputs: outputs.append(inputs[0]))
    made(magnitude())
    want, _ = stack(20 * magnitude().log10())
    assert torch.equal(outputs[0], want)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_dropout_keeps_its_share_and_the_mean(share, kind):
    torch.manual_seed(0)
    x = torch.full((3, 333, 401), 2.0, dtype=kind, requires_grad=True)  # 400,599: no multiple of 4
    got = dropout(x, share)
    assert got.dtype == kind
    kept = got != 0
    spread = (share * (1 - share) / x.numel()) ** 0.5
    assert kept.double().mean().item() == pytest.approx(1 - share, abs=5 * spread)
    scale = 1 / (1 - round(share * 2**16) / 2**16)
    torch.testing.assert_close(got[kept], torch.full_like(got[kept], 2 * scale))
    got.sum().backward()
    torch.testing.assert_close(x.grad, got.detach() / 2)
    assert torch.equal(dropout(x, share), got) == (share == 0)
    torch.manual_seed(0)
    assert torch.equal(dropout(x, share), got)
    # neighbours, which come from the same draw, know nothing of each other
    flat = kept.flatten()[:400_000].double().reshape(-1, 4)
    assert share == 0 or (torch.corrcoef(flat.mT) - torch.eye(4)).abs().max() < 0.02


@pytest.mark.parametrize("layers", [1, 2])
def test_dropout_acts_between_layers_and_in_training_only(layers):
    some = network(layers=layers)
    assert torch.equal(some(magnitude())["mask"], some(magnitude())["mask"]) == (layers == 1)
    some.eval()
    assert torch.equal(some(magnitude())["mask"], some(magnitude())["mask"])
