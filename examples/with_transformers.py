"""AutoClip in Hugging Face's Trainer, with a tiny BERT: pip install transformers accelerate."""

import tempfile

import torch

from sepclip.audio.resample import load_torchaudio
from sepclip.integrations.huggingface import ClipMixin

load_torchaudio()  # transformers imports torchaudio, which fails beside some versions of torch without this line
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed  # noqa: E402


class ClippedTrainer(ClipMixin, Trainer):
    pass


def run(epochs: int, folder: str, resume: bool) -> None:
    set_seed(0)
    words = torch.randint(0, 50, (96, 12), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "labels": int(row[0] > 25)} for row in words]
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    trainer = ClippedTrainer(
        clip="auto:10",
        model=BertForSequenceClassification(config),
        args=TrainingArguments(
            folder, num_train_epochs=epochs, learning_rate=1e-3, lr_scheduler_type="constant", logging_steps=12,
            save_strategy="epoch", report_to="none", disable_tqdm=True, use_cpu=True,
        ),
        train_dataset=data,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    rule = trainer.clip.rule
    print(f"{rule}: clipped {rule.clipped} of {rule.steps} steps")


with tempfile.TemporaryDirectory() as folder:
    run(2, folder, resume=False)
    run(4, folder, resume=True)  # from the last checkpoint, whose optimizer.pt includes the history
