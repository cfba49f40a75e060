"""AutoClip with Accelerate, which needs no adapter: pip install accelerate."""

import tempfile
from pathlib import Path

import torch
from accelerate import Accelerator

from sepclip.clip import parse


def run(updates: int, folder: Path) -> None:
    torch.manual_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=2, cpu=True)  # without cpu=True it uses a GPU if there is one
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=0.01))
    rule = parse("auto:10")
    accelerator.register_for_checkpointing(rule)  # save_state() and load_state() include its history
    if folder.exists():
        accelerator.load_state(folder)
    while rule.steps < updates:
        for half in range(2):
            x = torch.randn(8, 8, generator=torch.Generator().manual_seed(2 * rule.steps + half))
            with accelerator.accumulate(model):
                loss = torch.nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
                accelerator.backward(loss)
                if accelerator.sync_gradients:  # the gradients of this update are complete
                    accelerator.unscale_gradients(optimizer)  # only does something in float16
                    step = rule(model.named_parameters())
                optimizer.step()
                optimizer.zero_grad()
        if rule.steps % 50 == 0:
            print(f"step {rule.steps}: loss {loss:.3f}, norm {step.norm:.3f}, threshold {step.threshold:.3f}")
    accelerator.save_state(folder)
    print(f"{rule}: clipped {rule.clipped} of {rule.steps} steps")


with tempfile.TemporaryDirectory() as folder:
    run(50, Path(folder) / "checkpoint")
    run(100, Path(folder) / "checkpoint")  # resumes at step 50 with the history of its norms
