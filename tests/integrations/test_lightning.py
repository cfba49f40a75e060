"""The Lightning callback equals a loop with the rule called by hand, and its history goes through checkpoints."""

import csv
import importlib.util
import sys
import warnings

import lightning.pytorch as pl
import pytest
import pytorch_lightning as older
import torch
from lightning.pytorch import strategies
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.tuner import Tuner

from sepclip.clip import AutoClip, Step, TooManySkipped, parse
from sepclip.integrations import lightning as adapter
from sepclip.integrations.lightning import SHARDING, GradientClipping
from tests.integrations.plain import RULE, RULES, Names, adam, batches, loss, network, same, train

pytestmark = pytest.mark.filterwarnings("ignore:.*(num_workers|log_every_n_steps|LeafSpec).*")


class Module(pl.LightningModule):
    def __init__(self, make=adam, decay_every=10**9):
        super().__init__()
        self.net = network()
        self.make = make
        self.decay_every = decay_every

    def training_step(self, batch, _):
        return loss(self.net, batch)

    def configure_optimizers(self):
        optimizer = self.make(self.net)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, self.decay_every, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Adversaries(pl.LightningModule):
    """Two networks, each trained against the other by its own optimizer."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.nets = torch.nn.ModuleList([network(0), network(1)])

    def training_step(self, batch, _):
        for optimizer, value in zip(self.optimizers(), self.losses(batch), strict=True):
            optimizer.zero_grad()
            self.manual_backward(value())
            optimizer.step()

    def losses(self, batch):
        one, other = self.nets
        return [
            lambda: loss(one, batch) + other(batch[0]).mean(),
            lambda: loss(other, batch) - one(batch[0]).mean(),
        ]

    def configure_optimizers(self):
        return [adam(net) for net in self.nets]


def fit(module, data, *callbacks, resume=None, library=pl, **more):
    settings = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, **more}
    trainer = library.Trainer(
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **settings,
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None), ckpt_path=resume)
    return trainer


@pytest.mark.parametrize("text", RULES)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_callback_equals_the_rule_by_hand_bit_for_bit(accumulate, text):
    rule, data = parse(text), batches(24)
    clip, module = GradientClipping(text), Module(decay_every=3)
    fit(module, data, clip, accumulate_grad_batches=accumulate)
    assert same(module.net, train(rule, data, accumulate, decay_every=3, prefix="net"))
    assert clip.rules[0].state_dict() == rule.state_dict()
    assert clip.rules[0].steps == 24 // accumulate
    assert 0 < rule.clipped < rule.steps


def import_adapter_again():
    """Import the adapter a second time, with the modules that are importable now, and return it."""
    spec = importlib.util.spec_from_file_location("again", adapter.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_callback_works_with_pytorch_lightning(monkeypatch):
    monkeypatch.delitem(sys.modules, "lightning.pytorch")
    older_clip = import_adapter_again().GradientClipping

    class OlderModule(older.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def configure_optimizers(self):
            return adam(self.net)

        training_step = Module.training_step

    module, rule, data, clip = OlderModule(), parse(RULE), batches(8), older_clip(RULE)
    assert isinstance(clip, older.Callback)
    fit(module, data, clip, library=older)
    assert same(module.net, train(rule, data))
    assert clip.rules[0].state_dict() == rule.state_dict()


def test_missing_library_error_says_what_to_install(monkeypatch):
    for name in adapter.NAMES:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match="pip install lightning"):
        import_adapter_again()


def test_every_optimizer_has_its_own_history():
    data = batches(10)
    module, clip = Adversaries(), GradientClipping(RULE)
    fit(module, data, clip)
    hand, rules = Adversaries(), [parse(RULE), parse(RULE)]
    optimizers = hand.configure_optimizers()
    for batch in data:
        for net, optimizer, rule, value in zip(hand.nets, optimizers, rules, hand.losses(batch), strict=True):
            optimizer.zero_grad()
            value().backward()
            rule(net.named_parameters())
            optimizer.step()
    assert same(module, hand)
    assert [rule.state_dict() for rule in clip.rules] == [rule.state_dict() for rule in rules]
    assert clip.rules[0].state_dict() != clip.rules[1].state_dict()


def test_every_optimizer_may_have_its_own_rule():
    clip = GradientClipping("auto:10", "norm:3")
    trainer = fit(Adversaries(), batches(2), clip)
    assert [repr(rule) for rule in clip.rules] == ["auto:10", "norm:3"]
    assert {"clip/0/norm", "clip/1/threshold"} <= set(trainer.callback_metrics)
    with pytest.raises(ValueError, match="2 rules for 1 optimizers"):
        fit(Module(), batches(2), GradientClipping("auto:10", "norm:3"))


def half(scale):
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))


@pytest.mark.parametrize("scale", [2.0**8, 2.0**18], ids=["fits", "overflows at first"])
@pytest.mark.filterwarnings("ignore:step . of optimizer 0 is skipped", "ignore:Detected call of `lr_scheduler")
def test_half_precision_gradients_are_unscaled_before_clipping(scale):
    data, clip, module = batches(12), GradientClipping(RULE), Module()
    fit(module, data, clip, plugins=[half(scale)])
    net, rule, scaler = network(), parse(RULE), torch.amp.GradScaler("cpu", init_scale=scale)
    optimizer = adam(net)
    for batch in data:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.half):
            value = loss(net, batch)
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        rule(net.named_parameters())
        scaler.step(optimizer)
        scaler.update()
    assert same(module.net, net)
    assert clip.rules[0].state_dict() == rule.state_dict()
    assert (rule.skipped > 0) == (scale > 2**10)
    assert not same(net, network())


def test_fused_optimizers_in_half_precision_are_refused():
    module = Module(lambda net: torch.optim.Adam(net.parameters(), fused=True))
    with pytest.raises(ValueError, match="fused Adam unscales its gradients after clipping"):
        fit(module, batches(2), GradientClipping(RULE), plugins=[half(2.0**8)])


def test_clipping_twice_is_refused():
    with pytest.raises(ValueError, match=r"gradient_clip_val=0.5 would clip again what auto:50"):
        fit(Module(), batches(2), GradientClipping(RULE), gradient_clip_val=0.5)
    fit(Module(), batches(2), GradientClipping(RULE), gradient_clip_val=0.0)


def test_sharded_gradients_are_refused():
    clip, trainer = GradientClipping(RULE), pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.__class__ = type("FSDPStrategy", (type(trainer.strategy),), {})
    with pytest.raises(ValueError, match="FSDPStrategy splits gradients"):
        clip.setup(trainer, Module(), "fit")


def test_the_strategies_that_are_refused_exist():
    assert all(hasattr(strategies, name) for name in SHARDING)


@pytest.mark.parametrize("make", [Module, Adversaries])
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, make):
    data, whole, straight = batches(5), GradientClipping(RULE), make()
    fit(straight, data, whole, max_epochs=4)
    fit(make(), data, GradientClipping(RULE), max_epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    torch.load(tmp_path / "half.ckpt", weights_only=True)  # plain data, without classes
    clip, resumed = GradientClipping(RULE), make()
    fit(resumed, data, clip, max_epochs=4, resume=tmp_path / "half.ckpt")
    assert same(resumed, straight)
    assert [rule.state_dict() for rule in clip.rules] == [rule.state_dict() for rule in whole.rules]
    assert clip.rules[0].steps == 20


def test_second_fit_of_a_trainer_keeps_the_history():
    data, clip, module = batches(5), GradientClipping(RULE), Module()
    trainer = fit(module, data, clip)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))
    assert clip.rules[0].steps == 15


class Scaled(Module):
    """Its gradients are ``scale`` times as large."""

    def __init__(self, scale):
        super().__init__(lambda net: torch.optim.SGD(net.parameters(), 1e-6))
        self.scale, self.lr = scale, 1e-6

    def training_step(self, batch, _):
        return loss(self.net, batch) * self.scale


def test_second_model_gets_a_fresh_history():
    clip, data = GradientClipping("auto:10"), batches(10)
    fit(Scaled(1), data, clip)
    first = clip.rules[0]
    fit(Scaled(1000), data[:1], clip)
    assert (clip.last[0].factor, clip.rules[0].steps, first.steps) == (1, 1, 10)


def test_second_model_after_the_learning_rate_finder_gets_a_fresh_history(tmp_path):
    clip, data = GradientClipping("auto:10"), torch.utils.data.DataLoader(batches(10), batch_size=None)
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "default_root_dir": tmp_path}
    fit(Scaled(1), batches(10), clip)
    trainer = pl.Trainer(max_steps=1, callbacks=[clip], enable_checkpointing=False, **settings)
    module = Scaled(1000)
    Tuner(trainer).lr_find(module, data, num_training=5)
    trainer.fit(module, data)
    assert (clip.last[0].factor, clip.rules[0].steps) == (1, 1)


@pytest.mark.parametrize("clip_first", [True, False])
def test_learning_rate_finder_gives_no_warning_and_keeps_the_history(tmp_path, clip_first, recwarn):
    clip, finder = GradientClipping(RULE), LearningRateFinder(num_training_steps=5)
    callbacks = [clip, finder] if clip_first else [finder, clip]
    fit(Scaled(1), batches(4), *callbacks, default_root_dir=tmp_path).save_checkpoint(tmp_path / "half.ckpt")
    first = set(clip.rules[0].state_dict()["histories"][""])
    assert len(first) == 4
    clip, finder = GradientClipping(RULE), LearningRateFinder(num_training_steps=5)
    callbacks = [clip, finder] if clip_first else [finder, clip]
    more = {"resume": tmp_path / "half.ckpt", "max_epochs": 2, "default_root_dir": tmp_path}
    fit(Scaled(1), batches(4), *callbacks, **more)
    assert first < set(clip.rules[0].state_dict()["histories"][""])
    assert not [warning for warning in recwarn if "history" in str(warning.message)]


def test_finder_does_not_hide_a_checkpoint_without_a_history(tmp_path):
    fit(Scaled(1), batches(2)).save_checkpoint(tmp_path / "bare.ckpt")
    callbacks = [GradientClipping(RULE), LearningRateFinder(num_training_steps=5)]
    more = {"resume": tmp_path / "bare.ckpt", "max_epochs": 2, "default_root_dir": tmp_path}
    with pytest.warns(RuntimeWarning, match="the checkpoint has no history of a clipping rule"):
        fit(Scaled(1), batches(2), *callbacks, **more)


def test_another_rule_is_refused_on_resume_unless_fresh(tmp_path):
    data = batches(4)
    fit(Module(), data, GradientClipping(RULE)).save_checkpoint(tmp_path / "half.ckpt")
    more = {"resume": tmp_path / "half.ckpt", "max_epochs": 2}
    with pytest.raises(ValueError, match=r"belongs to the rule 'auto:50'.*write GradientClipping\(..., fresh=True\)"):
        fit(Module(), data, GradientClipping("zclip:2"), **more)
    clip = GradientClipping("zclip:2", fresh=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        fit(Module(), data, clip, **more)
    assert clip.rules[0].steps == 4


class Growing(Module):
    """Trains its last layer first; a layer that it creates during training joins after two steps."""

    def __init__(self, *, registered):
        super().__init__(lambda net: torch.optim.SGD(net[2].parameters(), 0.01))
        self.registered = registered

    def on_train_batch_start(self, batch, index):
        if index == 2:
            later = torch.nn.Linear(4, 1)
            if self.registered:
                self.later = later
            else:
                self.hidden = [later]
            self.optimizers().add_param_group({"params": later.parameters()})

    def training_step(self, batch, index):
        later = self.hidden[0] if hasattr(self, "hidden") else getattr(self, "later", None)
        return loss(self.net, batch) + (later(batch[0]).square().mean() if later else 0)


def test_parameters_that_join_during_training_are_clipped():
    clip = GradientClipping("auto:50,per=layer")
    fit(Growing(registered=True), batches(4), clip)
    assert set(clip.last[0].parts) == {"net.2", "later"}
    with pytest.raises(ValueError, match=r"2 tensors without a name.*make them parameters of the LightningModule"):
        fit(Growing(registered=False), batches(4), GradientClipping(RULE))


def test_optimizer_without_gradients_is_not_a_step_of_its_rule():
    class Alternating(Adversaries):
        def training_step(self, batch, index):
            optimizers = self.optimizers()
            for optimizer in optimizers:
                optimizer.zero_grad()
            self.manual_backward(self.losses(batch)[index % 4 == 3]())
            for optimizer, net in zip(optimizers, self.nets, strict=True):
                if net is not self.nets[index % 4 == 3]:
                    net.zero_grad()
                optimizer.step()

    clip = GradientClipping(RULE)
    with pytest.warns(RuntimeWarning, match="no parameter of the optimizer has a gradient"):
        fit(Alternating(), batches(8), clip)
    assert [rule.steps for rule in clip.rules] == [6, 2]


def test_checkpoint_without_a_history_warns(tmp_path):
    fit(Module(), batches(2)).save_checkpoint(tmp_path / "bare.ckpt")
    with pytest.warns(RuntimeWarning, match="no history of a clipping rule: auto:50 starts with an empty history"):
        fit(Module(), batches(2), GradientClipping(RULE), max_epochs=2, resume=tmp_path / "bare.ckpt")


def test_a_checkpoint_of_other_optimizers_is_refused():
    clip = GradientClipping(RULE)
    clip.load_state_dict({"rules": [parse(RULE).state_dict()]})
    with pytest.raises(ValueError, match="rules for 1 optimizers, this run has 2"):
        fit(Adversaries(), batches(2), clip)


def test_bad_batch_moves_nothing_and_warns_once():
    module, clip = Module(), GradientClipping(RULE)
    with pytest.warns(RuntimeWarning, match="step 6 of optimizer 0 is skipped: gradient is not finite") as warned:
        fit(module, batches(8, bad=[5, 6, 7]), clip)
    assert len([warning for warning in warned if "skipped" in str(warning.message)]) == 1
    assert clip.rules[0].skipped == 3
    assert same(module.net, train(parse(RULE), batches(5)))


def test_too_many_bad_steps_end_the_training():
    with pytest.raises(TooManySkipped), pytest.warns(RuntimeWarning):
        fit(Module(), batches(5, bad=range(5)), GradientClipping(AutoClip(10, most_skipped=4)))


def test_callback_logs_norm_threshold_and_counts(tmp_path):
    data, clip = batches(6), GradientClipping(RULE)
    trainer = fit(Module(), data, clip, logger=CSVLogger(tmp_path, flush_logs_every_n_steps=1), log_every_n_steps=1)
    with (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps: list[Step] = []
    train(parse(RULE), data, steps=steps)
    assert [float(row["clip/norm"]) for row in rows] == pytest.approx([step.norm for step in steps])
    assert [float(row["clip/threshold"]) for row in rows] == pytest.approx([step.threshold for step in steps])
    assert [bool(float(row["clip/clipped"])) for row in rows] == [step.clipped for step in steps]
    assert all(float(row["clip/skipped"]) == 0 for row in rows)
    assert "clip/norm" in trainer.callback_metrics


def test_the_rule_gets_the_names_of_the_module():
    clip = GradientClipping(Names())
    fit(Module(), batches(1), clip)
    assert clip.rules[0].seen == ["net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"]


def test_callback_refuses_no_rule_and_a_wrong_rule():
    with pytest.raises(ValueError, match="needs a rule"):
        GradientClipping()
    with pytest.raises(ValueError, match="auto:101"):
        GradientClipping("auto:101")
