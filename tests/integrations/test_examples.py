"""The scripts in examples/ run, resume, and clip."""

import re
import runpy
import subprocess
import sys

import pytest

from sepclip.clip import parse
from tests.conftest import REPOSITORY
from tests.integrations.plain import batches, train

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))
# run in a process of their own, because of what they import first; the others save seconds by running in this one
ALONE = {"pytorch.py", "with_transformers.py"}


def test_each_adapter_has_an_example() -> None:
    assert {path.name for path in EXAMPLES} == {
        *ALONE, "with_accelerate.py", "with_lightning.py", "with_optimizer_hook.py"
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*(num_workers|LeafSpec).*")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_and_resumes(path, capsys, tmp_path):
    if path.name in ALONE:
        result = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == 0, result.stderr
        printed = result.stdout
    else:
        runpy.run_path(str(path), run_name="__main__")
        printed = capsys.readouterr().out
    counts = [tuple(map(int, pair)) for pair in re.findall(r"clipped (\d+) of (\d+) steps", printed)]
    (clipped, first), (clipped_later, both) = counts
    assert both == 2 * first
    assert 0 < clipped < clipped_later < both
    assert len(path.read_text(encoding="utf-8").splitlines()) < 50
    assert not list(tmp_path.iterdir())  # the example has removed its files


def test_accelerate_checkpoint_contains_the_history(tmp_path):
    """examples/with_accelerate.py resumes a run bit for bit."""
    from accelerate import Accelerator

    from tests.integrations.plain import adam, loss, network, same

    def run(data, load=False):
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        net = network()
        model, optimizer = accelerator.prepare(net, adam(net))
        rule = parse("auto:50")
        accelerator.register_for_checkpointing(rule)
        if load:
            accelerator.load_state(tmp_path / "half")
        for batch in data:
            with accelerator.accumulate(model):
                accelerator.backward(loss(model, batch))
                if accelerator.sync_gradients:
                    accelerator.unscale_gradients(optimizer)
                    rule(model.named_parameters())
                optimizer.step()
                optimizer.zero_grad()
        if not load:
            accelerator.save_state(tmp_path / "half")
        return net, rule

    data, by_hand = batches(24), parse("auto:50")
    straight = train(by_hand, data, accumulate=2)
    run(data[:10])
    net, rule = run(data[10:], load=True)
    assert same(net, straight)
    assert rule.state_dict() == by_hand.state_dict()
    assert rule.steps == 12
