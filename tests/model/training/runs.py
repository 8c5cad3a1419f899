"""Small trainings: their recipes, their command line, and what they leave in their folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from model.options import TrainOptions
from spine_etl.store import Store

JOINT = """
name = "tiny"
validation_share = 0.3
[network]
encoder = "narrow"
hidden = 4
dropout = {dropout}
[view]
positions = 4
neighbours = 3
[augment]
{augment}
[[stages]]
objective = "joint"
epochs = 3
batch_size = 2
learning_rate = 1e-3
slice_factor = 1.0
clip_norm = 1.0
"""


TWO_STAGES = """
name = "tiny-two-stages"
validation_share = 0.3
[network]
encoder = "narrow"
lstm_input = "probability"
hidden = 4
[view]
kind = "windows"
positions = 4
[[stages]]
objective = "slices"
epochs = 2
batch_size = 12
optimizer = "adam"
learning_rate = 0.01
schedule = "plateau"
patience = 1
[[stages]]
objective = "sequence"
epochs = 3
batch_size = 4
optimizer = "adam"
learning_rate = 0.001
schedule = "plateau"
patience = 1
"""


AUGMENTED = "mixup_alpha = 0.4"


PLAIN = """
rotation_degrees = 0
scale = 0
shift = 0
flip = 0
gain = 0
offset_hu = 0
noise_hu = 0
cutout = 0
shuffle = 0
"""


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def recipe(folder: Path, text: str) -> str:
    path = folder / "recipe.toml"
    path.write_text(text)
    return str(path)


def location(store: Store) -> str:
    return str(store.location)


def lines(run: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl without the measured times."""
    read = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "wait_share")} for line in read]


def same_weights(one: Path, other: Path) -> bool:
    a, b = load_file(one / "best.safetensors"), load_file(other / "best.safetensors")
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def command(options: TrainOptions, *starter: str) -> list[str]:
    named = {"--store": options.store, "--out": options.out, "--recipe": options.recipe}
    flags = [str(part) for pair in named.items() for part in pair]
    flags += ["--save-every", str(options.save_every), "--device", "cpu"]
    return [sys.executable, "-m", *starter, "model.train", *flags]
