"""The clipping rules in several processes: data parallel, and with sharded parameters."""

import multiprocessing
from pathlib import Path

import pytest
import torch

from sepclip.clip import parse


def start(rank: int, folder: Path, work: str) -> None:
    """Run one of the functions below as process ``rank`` of two."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(globals()[work](rank), folder / f"{rank}.pt")
    torch.distributed.barrier()  # keep this process until the other has finished too
    torch.distributed.destroy_process_group()


def in_two_processes(folder, work):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=start, args=(rank, folder, work)) for rank in range(2)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(120)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def network_and_data():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    return network, torch.randn(20, 8, 5)


def train_in_parallel(rank):
    network, data = network_and_data()
    network = torch.nn.parallel.DistributedDataParallel(network)
    optimizer, rules = torch.optim.Adam(network.parameters(), 1e-2), [parse("auto:10"), parse("auto:50,per=layer")]
    for batch in data:
        optimizer.zero_grad()
        network(batch[4 * rank : 4 * rank + 4]).square().mean().backward()
        for rule in rules:
            rule(network.named_parameters())
        optimizer.step()
    weights = {name.removeprefix("module."): value.clone() for name, value in network.state_dict().items()}
    return {"weights": weights, "rules": [rule.state_dict() for rule in rules]}


def test_parallel_processes_stay_bit_identical(tmp_path):
    first, second = in_two_processes(tmp_path, "train_in_parallel")
    assert first["rules"] == second["rules"]
    assert 0 < first["rules"][0]["clipped"] < first["rules"][0]["steps"] == 20
    for name in first["weights"]:
        assert torch.equal(first["weights"][name], second["weights"][name])
    # the norms are those of the mean gradient, as in one process with all the data
    network, data = network_and_data()
    optimizer, rule = torch.optim.Adam(network.parameters(), 1e-2), parse("auto:10")
    layers = parse("auto:50,per=layer")
    for batch in data:
        optimizer.zero_grad()
        network(batch).square().mean().backward()
        rule(network.named_parameters())
        layers(network.named_parameters())
        optimizer.step()
    assert first["rules"][0]["histories"][""] == pytest.approx(rule.state_dict()["histories"][""], rel=1e-4)


SHARDED = ["auto:50", "auto:50,per=layer", "auto:0,per=tensor", "value:0.01", "norm:0.05"]


def whole_network():
    """Return a network whose last layer is too small to have a shard in each of two processes."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 1))


def sharded_network(kind):
    """Return the network with all tensors sharded, all but one, or columns and rows of weights."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    network, mesh = whole_network(), init_device_mesh("cpu", (2,))
    if kind == "tensor parallel":  # the LayerNorm is not sharded
        columns = ColwiseParallel(output_layouts=Replicate())
        return parallelize_module(network, mesh, {"0": columns, "2": RowwiseParallel(input_layouts=Replicate())})
    fully_shard(network, mesh=mesh, ignored_params={network[1].weight} if kind == "some" else None)
    return network


def clip_shards(rank):
    norms = []
    _, data = network_and_data()
    for kind in ("all", "some", "tensor parallel"):
        for text in SHARDED:
            networks, rules = (whole_network(), sharded_network(kind)), (parse(text), parse(text))
            for batch in data[:4]:
                steps = []
                for network, rule in zip(networks, rules, strict=True):
                    network.zero_grad()
                    network(batch).square().mean().backward()  # the same batch everywhere
                    steps.append(rule(network.named_parameters()))
                assert steps[0].norm == pytest.approx(steps[1].norm, rel=1e-5)
                assert steps[0].factor == pytest.approx(steps[1].factor, rel=1e-4)
                for whole, shard in zip(*(network.parameters() for network in networks), strict=True):
                    grad = shard.grad.full_tensor() if hasattr(shard.grad, "full_tensor") else shard.grad
                    torch.testing.assert_close(whole.grad, grad, rtol=1e-4, atol=1e-7)
                norms.append(steps[1].norm)
            assert rules[0].clipped == rules[1].clipped > 0
    with pytest.raises(TypeError, match="agc needs whole, dense gradients"):
        parse("agc:0.1")(networks[1].named_parameters())
    return norms


def refuse_shards(rank):
    from torch.distributed.fsdp import FullyShardedDataParallel

    _, data = network_and_data()
    for original in (True, False):
        old = FullyShardedDataParallel(network_and_data()[0], use_orig_params=original, device_id=torch.device("cpu"))
        old(data[0]).square().mean().backward()
        with pytest.raises(TypeError, match=r"is a shard, whose norm is not that of the whole: use fully_shard"):
            parse("auto:10")(old.named_parameters())


def test_sharded_gradients_have_the_norm_of_the_whole(tmp_path):
    first, second = in_two_processes(tmp_path, "clip_shards")
    assert first == second
    assert len(first) == 3 * 4 * len(SHARDED)


def test_fsdp1_shards_are_refused(tmp_path):
    in_two_processes(tmp_path, "refuse_shards")
