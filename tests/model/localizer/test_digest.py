"""The digest of a localizer changes with every constant behind an answer; its answers are golden."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from model.localizer import hmm, level_order, network, relabel
from model.localizer.folds import ANSWERS_VERSION, CONSTANTS, FoldNetwork, digest_of_folds, finished_folds
from model.localizer.level_order import LevelOrder
from model.localizer.localizer import Localizer
from model.localizer.network import FcnSettings, build_fcn, class_probabilities
from spine_etl import localization
from spine_etl.recipe import load_recipe
from tests.model.localizer.necks import K, neck
from tests.model.localizer.untrained import save_untrained_fold

ONLY_IN_TRAINING = {"P_SKIP", "P_CORRECT", "P_NEIGHBOUR", "P_MISSED", "P_INVENTED"}
GOLDEN_VERSION = 1
GOLDEN_LABELS = "0401c9276823d618"
GOLDEN_CONFIDENCE = [0.7597021, 0.6509623, 0.3790281, 0.75989, 0.7596476, 0.7594698, 0.7592491]
GOLDEN_PROBABILITIES = [0.062427, 0.0, 0.937573, 0.0, 0.089347, 0.151817, 0.672188, 0.086648]
UPDATE = "an answer changed: raise ANSWERS_VERSION and update the golden values"


def upper_case_names(module: ModuleType) -> set[str]:
    """The constants that a module assigns at its top level."""
    assert module.__file__
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    names = {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
    return {name for name in names if name.lstrip("_").isupper() and name != "_FIELDS"}


def test_every_constant_of_the_prediction_is_listed() -> None:
    modules = (hmm, level_order, network, relabel, localization)
    assigned = {name: getattr(module, name) for module in modules for name in upper_case_names(module)}
    in_training = {name: assigned.pop(name) for name in ONLY_IN_TRAINING}
    assert len(in_training) == 5
    assert dict(CONSTANTS) == assigned | {"AIR_HU": -1024}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("localizer")
    save_untrained_fold(folder, load_recipe("quick"))
    return finished_folds(folder)


@pytest.mark.parametrize("name", sorted(CONSTANTS))
def test_a_changed_constant_changes_the_digest(folders: list[Path], name: str) -> None:
    changed = {**CONSTANTS, name: np.nextafter(CONSTANTS[name], np.inf)}
    assert digest_of_folds(folders, constants=changed) != digest_of_folds(folders)


def test_version_is_part_of_the_digest_and_the_localizer_uses_both(folders: list[Path]) -> None:
    digest = digest_of_folds(folders)
    assert digest_of_folds(folders, version=ANSWERS_VERSION + 1) != digest
    assert Localizer(folders[0].parent).digest == digest
    pinned = digest_of_folds(folders, version=ANSWERS_VERSION, constants=dict(CONSTANTS))
    assert pinned == digest


class NearestHu(nn.Module):
    """A network of fixed weights: class c is the likelier, the nearer HU is to -200 + 250 c."""

    def __init__(self) -> None:
        super().__init__()
        means = (torch.arange(K + 2.0) * 250 - 500) / 500
        self.convolution = nn.Conv3d(1, K + 2, 1)
        with torch.no_grad():
            self.convolution.weight.copy_((20 * means).view(-1, 1, 1, 1, 1))
            self.convolution.bias.copy_(-10 * means**2)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.convolution(values)
        return result


def difficult_image() -> np.ndarray:
    """int16 HU of a neck: a misnamed level, duplicates, a fragment and noise."""
    labels = neck()
    labels[labels == 3] = 4
    (c2,), (c6,), (c7,) = (np.nonzero((labels == level).any(axis=(1, 2))) for level in (2, 6, 7))
    labels[c2[0] : c2[0] + 4, 6:13, 8:16][labels[c2[0] : c2[0] + 4, 6:13, 8:16] == 2] = 3
    labels[c6[0] : c6[0] + 3, 1:4, 18:20] = 6
    labels[c6[0] : c6[0] + 3, 6:13, 18:22] = 6
    labels[c7[0] : c7[0] + 4, 21:24, 10:14] = 6
    hu = np.where(labels, -200 + 250 * labels, -1024)
    z, y, x = np.indices(labels.shape)
    return np.where(labels, hu + 90 * np.sin(3 * z + 5 * y + 7 * x), hu).round().astype(np.int16)


def test_answers_are_the_golden_ones(folders: list[Path]) -> None:
    localizer = Localizer(folders[0].parent)
    order = LevelOrder.fit([neck(), neck((5, 7, 5, 4, 5, 5, 5)), neck((4, 8, 4, 5, 5, 6, 6), above=6)], K)
    localizer.folds = [FoldNetwork(localizer.folds[0].metadata, NearestHu(), order)]
    answer = localizer.localize(difficult_image(), load_recipe("quick"))
    assert ANSWERS_VERSION == GOLDEN_VERSION, "update the golden values"
    assert hashlib.sha256(answer.labels.tobytes()).hexdigest()[:16] == GOLDEN_LABELS, UPDATE
    assert list(answer.confidence.values()) == pytest.approx(GOLDEN_CONFIDENCE, abs=1e-5), UPDATE


def test_network_of_fixed_weights_gives_the_golden_probabilities() -> None:
    fcn = build_fcn(FcnSettings(channels=(4, 8), units=1), 2)
    with torch.no_grad():
        for parameter in fcn.parameters():
            parameter.copy_(torch.sin(3 * torch.arange(1.0, parameter.numel() + 1)).view(parameter.shape))
    z, y, x = np.indices((7, 6, 9))
    image = torch.from_numpy((600 * np.sin(z + 2 * y + 3 * x)).round().astype(np.int16))
    image[0] = image[:, :, -1] = -1000
    found = class_probabilities(fcn, image, multiple=2)
    assert found[:, 3, 3, 3].tolist() + found[:, 6, 0, 7].tolist() == pytest.approx(
        GOLDEN_PROBABILITIES, abs=1e-4
    ), UPDATE
