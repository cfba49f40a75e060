"""AutoClip as a Lightning callback: pip install lightning."""

import tempfile
from pathlib import Path

import lightning.pytorch as pl
import torch

from sepclip.integrations.lightning import GradientClipping


class Regression(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))

    def training_step(self, batch, _):
        return torch.nn.functional.mse_loss(self.net(batch), batch.sum(1, keepdim=True))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def run(epochs: int, checkpoint: Path) -> None:
    pl.seed_everything(0)
    data = torch.utils.data.DataLoader(torch.randn(320, 8), batch_size=16)
    clip = GradientClipping("auto:10")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[clip], accelerator="cpu", enable_checkpointing=False, **quiet)
    trainer.fit(Regression(), data, ckpt_path=checkpoint if checkpoint.exists() else None)
    trainer.save_checkpoint(checkpoint)
    (rule,) = clip.rules  # one rule for each optimizer
    print({name: round(value.item(), 4) for name, value in trainer.callback_metrics.items()})
    print(f"{rule}: clipped {rule.clipped} of {rule.steps} steps")


with tempfile.TemporaryDirectory() as folder:
    run(5, Path(folder) / "last.ckpt")
    run(10, Path(folder) / "last.ckpt")  # resumes at epoch 5 with the history of its norms
