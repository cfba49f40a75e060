"""Run a deep clustering step of asteroid or nussl, built from their own classes, for benchmarks/train.py.

    python -m venv peers && peers/bin/pip install torch==2.13.0
    peers/bin/pip install asteroid==0.7.0 nussl==1.1.9     # soxbindings may fail to build: it is not needed
    peers/bin/python benchmarks/train_peers.py asteroid --batch 8

Allocator, precision and threads are the defaults. asteroid takes waves, and its transform is part of the step, as in
its recipe for deep clustering; nussl's recipe keeps spectrograms and targets on disk, so they are computed beforehand
here.
"""

import argparse
import json
import sys
import time
import types
from collections.abc import Callable

import torch

FRAMES, BINS, SAMPLES, HIDDEN, LAYERS, EMBEDDING = 400, 129, 399 * 64, 300, 2, 20


def make_importable() -> None:
    """Restore what newer releases removed: three names in scipy, and torchaudio's compiled part."""
    import scipy.signal

    for name in ("hamming", "hann", "blackman"):
        setattr(scipy.signal, name, getattr(scipy.signal.windows, name))
    try:
        import torchaudio  # noqa: F401
    except OSError:
        for name in [name for name in sys.modules if name.startswith("torchaudio")]:
            del sys.modules[name]
        stand_in = types.ModuleType("torchaudio._extension")
        stand_in.fail_if_no_align = lambda function: function
        stand_in._IS_TORCHAUDIO_EXT_AVAILABLE = stand_in._IS_RIR_AVAILABLE = stand_in._IS_ALIGN_AVAILABLE = False
        sys.modules["torchaudio._extension"] = stand_in


def asteroid_step(batch_size: int) -> Callable[[], object]:
    """Return a step of asteroid's recipe: both heads are computed, but the loss uses the embeddings only."""
    from asteroid.losses import deep_clustering_loss
    from asteroid.masknn.recurrent import SingleRNN
    from asteroid_filterbanks import make_enc_dec
    from asteroid_filterbanks.transforms import mag

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, _ = make_enc_dec("stft", n_filters=256, kernel_size=256, stride=64)
            self.rnn = SingleRNN("lstm", BINS, HIDDEN, LAYERS, dropout=0.3, bidirectional=True)
            self.dropout = torch.nn.Dropout(0.3)
            self.mask_layer = torch.nn.Linear(2 * HIDDEN, 2 * BINS)
            self.embedding_layer = torch.nn.Linear(2 * HIDDEN, BINS * EMBEDDING)

        def forward(self, mixture):
            features = torch.log(mag(self.encoder(mixture.unsqueeze(1))) + 1e-8)  # (B, F, N)
            hidden = self.dropout(self.rnn(features.permute(0, 2, 1)))
            vectors = torch.tanh(self.embedding_layer(hidden)).view(len(mixture), -1, BINS, EMBEDDING)
            vectors = vectors.transpose(1, 2).reshape(len(mixture), -1, EMBEDDING)  # (B, F N, E)
            vectors = vectors / (vectors.norm(dim=-1, keepdim=True) + 1e-8)
            masks = torch.sigmoid(self.mask_layer(hidden).view(len(mixture), -1, 2, BINS)).permute(0, 2, 3, 1)
            return vectors, masks

    network = Network().train()
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    sources = 0.05 * torch.randn(batch_size, 2, SAMPLES, generator=torch.Generator().manual_seed(0))
    mixture = sources.sum(1)

    def step() -> float:
        optimizer.zero_grad()
        with torch.no_grad():
            magnitudes = mag(network.encoder(sources.flatten(0, 1).unsqueeze(1))).unflatten(0, (batch_size, 2))
            loudest = magnitudes.argmax(1)  # (B, F, N)
            whole = mag(network.encoder(mixture.unsqueeze(1)))
            audible = (whole > whole.flatten(1).amax(1)[:, None, None] * 10 ** (-40 / 20)).float()
        vectors, _ = network(mixture)
        loss = deep_clustering_loss(vectors, loudest, binary_mask=audible.flatten(1).unsqueeze(-1)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 200)
        optimizer.step()
        return loss.item()

    return step


def nussl_step(batch_size: int) -> Callable[[], object]:
    """Return nussl's own training closure on precomputed spectrograms, with its own gradient clipping added."""
    import nussl
    from nussl.ml.networks import SeparationModel, builders
    from nussl.ml.train.closures import TrainClosure

    model = SeparationModel(
        builders.build_recurrent_dpcl(BINS, HIDDEN, LAYERS, True, 0.3, EMBEDDING, ["sigmoid", "unit_norm"])
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    closure = TrainClosure({"DeepClusteringLoss": {"weight": 1.0}}, optimizer, model)
    optimizer.register_step_pre_hook(lambda *_: torch.nn.utils.clip_grad_norm_(model.parameters(), 200) and None)
    chance = torch.Generator().manual_seed(0)
    magnitude = torch.rand(batch_size, FRAMES, BINS, 1, generator=chance)
    first = torch.randint(2, (batch_size, FRAMES, BINS, 1), generator=chance).float()
    data = {
        "mix_magnitude": magnitude,
        "ideal_binary_mask": torch.cat([first, 1 - first], -1),
        "weights": magnitude,
    }
    assert nussl.__version__
    return lambda: closure(None, dict(data))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("arm", choices=["asteroid", "nussl"])
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    options = parser.parse_args()
    make_importable()
    step = {"asteroid": asteroid_step, "nussl": nussl_step}[options.arm](options.batch)
    step(), step()
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[options.clock]
    began = clock()
    for _ in range(options.steps):
        step()
    seconds = (clock() - began) / options.steps
    facts = f"{torch.get_num_threads()} threads, torch {torch.__version__}, default allocator, fp32"
    print(json.dumps({"seconds": seconds, "facts": facts}))


if __name__ == "__main__":
    main()
