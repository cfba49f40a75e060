"""AutoClip inside optimizer.step(), without changes to the training loop and its checkpoints."""

import tempfile
from pathlib import Path

import torch

from sepclip.integrations.optimizer import clip_before_step


def run(updates: int, checkpoint: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    clip = clip_before_step(optimizer, "auto:10", model.named_parameters())  # the only new line
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    if checkpoint.exists():
        for name, state in torch.load(checkpoint, weights_only=True).items():
            parts[name].load_state_dict(state)
    while scheduler.last_epoch < updates:
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(scheduler.last_epoch))
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
        loss.backward()
        optimizer.step()
        scheduler.step()
        if scheduler.last_epoch % 50 == 0:
            print(f"step {clip.rule.steps}: loss {loss:.3f}, norm {clip.last.norm:.3f}, clipped {clip.last.clipped}")
    torch.save({name: part.state_dict() for name, part in parts.items()}, checkpoint)
    print(f"{clip.rule}: clipped {clip.rule.clipped} of {clip.rule.steps} steps")


with tempfile.TemporaryDirectory() as folder:
    run(100, Path(folder) / "checkpoint.pt")
    run(200, Path(folder) / "checkpoint.pt")  # resumes: the history is in the optimizer's state
