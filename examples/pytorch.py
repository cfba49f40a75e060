"""AutoClip in a plain PyTorch loop that saves and resumes: python examples/pytorch.py."""

import tempfile
from pathlib import Path

import torch

from sepclip.clip import parse  # or copy sepclip/clip.py next to your script: it only needs torch


def run(updates: int, checkpoint: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    rule = parse("auto:10")
    parts = {"model": model, "optimizer": optimizer, "rule": rule}
    if checkpoint.exists():
        for name, state in torch.load(checkpoint, weights_only=True).items():
            parts[name].load_state_dict(state)
    while rule.steps < updates:
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(rule.steps))
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
        loss.backward()
        step = rule(model.named_parameters())  # with a GradScaler: scaler.unscale_(optimizer) first
        optimizer.step()
        if rule.steps % 50 == 0:
            print(f"step {rule.steps}: loss {loss:.3f}, norm {step.norm:.3f}, threshold {step.threshold:.3f}")
    torch.save({name: part.state_dict() for name, part in parts.items()}, checkpoint)
    print(f"{rule}: clipped {rule.clipped} of {rule.steps} steps, skipped {rule.skipped}")


with tempfile.TemporaryDirectory() as folder:
    run(100, Path(folder) / "checkpoint.pt")
    run(200, Path(folder) / "checkpoint.pt")  # resumes at step 100 with the history of the first 100 norms
