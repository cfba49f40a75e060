"""A training loop that calls the rule by hand; every adapter must equal it bit for bit."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from sepclip.clip import Rule, Step

Batch = tuple[Tensor, Tensor]
RULE = "auto:50"  # clips some of the steps
RULES = [RULE, "auto:50,per=layer"]


class Names(Rule):
    """A rule that clips nothing and records the names of the parameters."""

    name = "names"

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __call__(self, parameters: Iterable[tuple[str, Tensor]]) -> Step:
        self.seen = [name for name, _ in parameters]
        self.steps += 1
        return Step(1.0, 1.0, 1.0)


def network(seed: int = 0) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1))


def batches(count: int, bad: Iterable[int] = ()) -> list[Batch]:
    """Return batches with varying gradients; those with an index in ``bad`` give gradients that are not finite."""
    generator = torch.Generator().manual_seed(1)
    data = []
    for number in range(count):
        x = torch.randn(3, 4, generator=generator)
        y = x.sum(1, keepdim=True) * (1 + number % 3) + torch.randn(3, 1, generator=generator)
        data.append((x * torch.nan if number in bad else x, y))
    return data


def loss(net: torch.nn.Module, batch: Batch) -> Tensor:
    return torch.nn.functional.mse_loss(net(batch[0]), batch[1])


def adam(net: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=0.05)


def train(
    rule: Rule,
    data: list[Batch],
    accumulate: int = 1,
    make: Callable[[torch.nn.Module], torch.optim.Optimizer] = adam,
    decay_every: int = 0,
    steps: list[Step] | None = None,
    prefix: str = "",
) -> torch.nn.Module:
    """Train by hand; the learning rate halves every ``decay_every`` updates.

    The steps of the rule are appended to ``steps``. ``prefix`` is the name of the network in the model of a library.
    """
    net = network()
    optimizer = make(net)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, decay_every or 10**9, gamma=0.5)
    for start in range(0, len(data), accumulate):
        optimizer.zero_grad()
        for batch in data[start : start + accumulate]:
            (loss(net, batch) / accumulate).backward()
        step = rule(net.named_parameters(prefix))
        if steps is not None:
            steps.append(step)
        optimizer.step()
        scheduler.step()
    return net


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
