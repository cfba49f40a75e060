import pytest
import torch

from sepclip.model.networks import NETWORKS, build_network

SMALL = {"bins": 9, "sources": 2, "layers": 2, "hidden": 6, "dropout": 0.3, "embedding_size": 4, "input_norm": "all"}
BOTH = ("mask", "embedding")


def network(name="blstm", seed=0, heads=BOTH, **changes):
    return build_network(name, seed, heads=heads, **{**SMALL, **changes})


def magnitude(batch=2, frames=7, seed=0):
    return torch.rand(batch, frames, SMALL["bins"], generator=torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize("name", NETWORKS)
def test_heads_have_their_shapes_and_ranges(name):
    outputs = network(name)(magnitude())
    assert set(outputs) == set(BOTH)
    assert outputs["mask"].shape == (2, 2, 7, 9)
    assert outputs["embedding"].shape == (2, 7, 9, 4)
    assert outputs["mask"].min() > 0
    assert outputs["mask"].max() < 1
    assert (outputs["mask"].sum(1) - 1).abs().max() > 1e-3  # sigmoid, not softmax
    assert outputs["embedding"].min() >= 0
    torch.testing.assert_close(outputs["embedding"].norm(dim=-1), torch.ones(2, 7, 9))


@pytest.mark.parametrize("head", BOTH)
@pytest.mark.parametrize("name", NETWORKS)
def test_only_the_heads_asked_for_are_built(name, head):
    assert list(network(name, heads=(head,))(magnitude())) == [head]


def test_forget_gates_begin_at_two_and_all_other_biases_at_zero():
    for name, parameter in network().named_parameters():
        if "bias" in name and not name.startswith("norm."):
            want = torch.zeros_like(parameter)
            if name.startswith("lstm."):
                want[6:12] = 1  # input, forget, cell, output; once in each of the two biases that are added
            assert torch.equal(parameter, want), name


def test_weights_are_xavier_normal():
    weight = network(hidden=200).lstm.weight_hh_l1  # (800, 200)
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
    assert not torch.equal(network(name, seed=6).lstm.weight_ih_l0, first["lstm.weight_ih_l0"])


def test_what_is_below_80_db_does_not_count():
    evaluated = network().eval()
    quiet = magnitude() * 1e-4
    for head, output in evaluated(quiet).items():
        assert torch.equal(output, evaluated(torch.zeros_like(quiet))[head])
        assert not torch.equal(output, evaluated(quiet * 10)[head])


@pytest.mark.parametrize(("kind", "axes"), [("all", (0, 1, 2)), ("bins", (0, 1))])
def test_input_is_centred(kind, axes):
    trained, seen = network(input_norm=kind), []
    trained.lstm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    louder_and_louder = torch.logspace(-3, 0, 9)
    trained(magnitude() * louder_and_louder)
    mean, deviation = seen[0].mean(axes), seen[0].std(axes, correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-5)
    torch.testing.assert_close(deviation, torch.ones_like(mean), rtol=0, atol=1e-5)
    assert trained.norm.running_mean.numel() == mean.numel() == (1 if kind == "all" else 9)
    # with one scale for all bins, a louder bin stays louder
    assert (seen[0][..., 8].mean() - seen[0][..., 0].mean() > 2) == (kind == "all")


@pytest.mark.parametrize("layers", [1, 2])
def test_dropout_acts_between_layers_and_in_training_only(layers):
    some = network(layers=layers)
    assert torch.equal(some(magnitude())["mask"], some(magnitude())["mask"]) == (layers == 1)
    some.eval()
    assert torch.equal(some(magnitude())["mask"], some(magnitude())["mask"])
