"""The Trainer mixin equals a loop with the rule called by hand; the Trainer's own clipping is off."""

import math
import warnings

import pytest
import torch
from transformers import Trainer, TrainingArguments

from sepclip.clip import AutoClip, Step, TooManySkipped, parse
from sepclip.integrations.huggingface import ClipMixin
from tests.integrations.plain import RULE, RULES, Names, adam, batches, loss, network, same, train


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x, labels):
        return {"loss": loss(self.net, (x, labels))}


class ClippedTrainer(ClipMixin, Trainer):
    """Keeps the order of the data, so that the loop by hand sees the same batches."""

    def get_train_dataloader(self):
        data = [{"x": x, "labels": y} for batch in self.train_dataset for x, y in zip(*batch, strict=True)]
        return self.accelerator.prepare(torch.utils.data.DataLoader(data, batch_size=3))


class ScaledTrainer(ClippedTrainer):
    """Scales the loss as for float16, which Accelerate does on GPUs only."""

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)


def trainer(data, clip=RULE, kind=ClippedTrainer, make=adam, decay_every=10**9, fresh_clip=False, **settings):
    settings = {"num_train_epochs": 1, "logging_steps": 1, "save_strategy": "no", **settings}
    arguments = TrainingArguments("out", use_cpu=True, report_to="none", disable_tqdm=True, **settings)
    model = Model()
    optimizer = make and make(model.net)
    scheduler = make and torch.optim.lr_scheduler.StepLR(optimizer, decay_every, gamma=0.5)
    given = {"model": model, "args": arguments, "train_dataset": data, "optimizers": (optimizer, scheduler)}
    return kind(clip=clip, fresh_clip=fresh_clip, **given)


@pytest.mark.parametrize("text", RULES)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_mixin_equals_the_rule_by_hand_bit_for_bit(accumulate, text):
    rule, data = parse(text), batches(24)
    clipped = trainer(data, text, decay_every=3, gradient_accumulation_steps=accumulate)
    clipped.train()
    assert same(clipped.model.net, train(rule, data, accumulate, decay_every=3, prefix="net"))
    assert clipped.clip.rule.state_dict() == rule.state_dict()
    assert rule.steps == 24 // accumulate
    assert 0 < rule.clipped < rule.steps


@pytest.mark.parametrize("fused", [False, True])
def test_loss_scaling_changes_nothing(fused):
    data = batches(12)
    plain, scaled = (
        trainer(data, kind=kind, make=lambda net: torch.optim.Adam(net.parameters(), 0.05, fused=fused))
        for kind in (ClippedTrainer, ScaledTrainer)
    )
    plain.train()
    scaled.train()
    assert scaled.optimizer.scaler is scaled.accelerator.scaler
    assert scaled.accelerator.scaler.get_scale() == 2.0**12
    assert same(plain.model, scaled.model)
    assert plain.clip.rule.state_dict() == scaled.clip.rule.state_dict()


def test_optimizer_of_the_trainer_gets_the_names_of_the_model():
    clipped = trainer(batches(2), Names(), make=None)
    clipped.train()
    assert sorted(clipped.clip.rule.seen) == ["net.0.bias", "net.0.weight", "net.2.bias", "net.2.weight"]


def test_clipping_of_the_trainer_is_off():
    """auto:100 never clips; the Trainer's default of 1.0 would."""
    data = batches(8)
    clipped = trainer(data, "auto:100")
    clipped.train()
    steps: list[Step] = []
    assert same(clipped.model.net, train(parse("none"), data, steps=steps))
    assert min(step.norm for step in steps) > 1
    assert clipped.args.max_grad_norm == 0


def test_a_chosen_max_grad_norm_is_refused():
    with pytest.raises(
        ValueError, match=r"max_grad_norm=0.5 would clip in addition to auto:50: leave it out, or use clip='norm:0.5'"
    ):
        trainer(batches(2), max_grad_norm=0.5)
    trainer(batches(2), max_grad_norm=0.0)


@pytest.mark.parametrize("engine", ["deepspeed", "fsdp"])
def test_sharded_gradients_are_refused(engine):
    class Sharding(ClippedTrainer):
        def create_accelerator_and_postprocess(self):
            super().create_accelerator_and_postprocess()
            setattr(self, f"is_{engine}_enabled", True)

    with pytest.raises(ValueError, match=f"{engine} splits gradients"):
        trainer(batches(2), kind=Sharding, make=None)


@pytest.mark.parametrize("make", [adam, None], ids=["given optimizer", "the Trainer's own"])
def test_resumed_run_equals_the_uninterrupted_one(make):
    data = batches(8)
    straight = trainer(data, make=make, save_strategy="steps", save_steps=5, num_train_epochs=2)
    straight.train()
    resumed = trainer(data, make=make, num_train_epochs=2)
    resumed.train(resume_from_checkpoint="out/checkpoint-5")
    assert same(resumed.model, straight.model)
    assert resumed.clip.rule.state_dict() == straight.clip.rule.state_dict()
    assert resumed.clip.rule.steps == 16


@pytest.mark.parametrize("make", [adam, None], ids=["given optimizer", "the Trainer's own"])
def test_checkpoint_without_the_optimizer_warns(make):
    data = batches(8)
    trainer(data, make=make, save_strategy="steps", save_steps=5, save_only_model=True).train()
    resumed = trainer(data, make=make, num_train_epochs=2)
    with pytest.warns(RuntimeWarning, match="the checkpoint has no history of a clipping rule") as warned:
        resumed.train(resume_from_checkpoint="out/checkpoint-5")
    assert len([warning for warning in warned if "history" in str(warning.message)]) == 1
    resumed = trainer(data, make=make, num_train_epochs=2, fresh_clip=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        resumed.train(resume_from_checkpoint="out/checkpoint-5")


def test_another_rule_is_refused_on_resume_unless_fresh():
    data = batches(8)
    trainer(data, save_strategy="steps", save_steps=5).train()
    with pytest.raises(ValueError, match=r"belongs to the rule 'auto:50'.*ClipMixin: fresh_clip=True"):
        trainer(data, "zclip:2", num_train_epochs=2).train(resume_from_checkpoint="out/checkpoint-5")
    fresh = trainer(data, "zclip:2", num_train_epochs=2, fresh_clip=True)
    fresh.train(resume_from_checkpoint="out/checkpoint-5")
    assert fresh.clip.rule.steps == 11


def test_second_training_keeps_the_history():
    clipped = trainer(batches(4))
    clipped.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        clipped.train()
    assert clipped.clip.rule.steps == 8


def test_bad_batch_moves_nothing_and_warns_once():
    clipped = trainer(batches(8, bad=[5, 6, 7]))
    with pytest.warns(RuntimeWarning, match="optimizer step 6 is skipped: gradient is not finite") as warned:
        clipped.train()
    assert len([warning for warning in warned if "skipped" in str(warning.message)]) == 1
    assert clipped.clip.rule.skipped == 3
    assert same(clipped.model.net, train(parse(RULE), batches(5)))


def test_too_many_bad_steps_end_the_training():
    with pytest.raises(TooManySkipped), pytest.warns(RuntimeWarning):
        trainer(batches(5, bad=range(5)), AutoClip(10, most_skipped=4)).train()


def test_mixin_logs_norm_threshold_and_counts():
    clipped = trainer(batches(6, bad=[5]))
    with pytest.warns(RuntimeWarning):
        clipped.train()
    steps: list[Step] = []
    train(parse(RULE), batches(5), steps=steps)
    rows = [row for row in clipped.state.log_history if "loss" in row]
    assert [row["grad_norm"] for row in rows[:5]] == [step.norm for step in steps]
    assert [row["clip_threshold"] for row in rows[:5]] == [step.threshold for step in steps]
    assert rows[4]["clipped_share"] == sum(step.clipped for step in steps) / 5
    assert "grad_norm" not in rows[5]
    assert rows[5]["skipped_steps"] == 1
    assert all(math.isfinite(value) for value in rows[5].values())


def test_trainer_that_bypasses_create_optimizer_is_refused():
    class Bypassing(ClippedTrainer):
        def create_optimizer(self, model=None):
            self.optimizer = adam(self.model)
            return self.optimizer

    with pytest.raises(RuntimeError, match=r"auto:50 is not attached.*super\(\)"):
        trainer(batches(2), kind=Bypassing, make=None).train()


def test_mixin_must_come_first():
    with pytest.raises(TypeError, match="ClipMixin must come before the Trainer"):
        ClipMixin(clip=RULE)
    with pytest.raises(ValueError, match="auto:101"):
        trainer(batches(2), "auto:101")
