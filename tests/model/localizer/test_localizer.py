"""A localizer from its training to its answers and its score."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.localizer.level_order import LevelOrder
from model.localizer.localizer import Fold, Localizer, is_finished, save_member
from model.localizer.network import build_fcn, class_of_label
from model.localizer.score import StudyScore, centres, crop_distances, dice, identified, summary
from model.localizer.table import apply_localizer
from model.localizer.training import (
    DISTORTION,
    PATCH,
    SETTINGS,
    Distortion,
    draw_patch,
    train_localizer,
)
from model.options import ApplyLocalizerOptions, TrainLocalizerOptions
from spine_etl.errors import CheckpointInvalid, FoldInvalid, OutputUnwritable
from spine_etl.localization import LEAST_CONFIDENCE, Localization
from spine_etl.phantom import write_phantom
from spine_etl.pipeline import process_study
from spine_etl.recipe import Recipe, load_recipe
from spine_etl.source.layout import discover_studies
from spine_etl.store import Store
from spine_etl.store.writer import StoreWriter

STILL = Distortion(degrees=0, scale=0, gain=0, offset_hu=0, noise_hu=0, truncated=0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def member(folder: Path, recipe: Recipe, fold: int = 0, seed: int = 0) -> None:
    """A finished fold whose weights were drawn, not trained."""
    torch.manual_seed(seed)
    levels = len(recipe.levels)
    neck = np.repeat([levels + 1, *range(levels, 0, -1), 0], 4)[:, None, None] * np.ones((1, 3, 3), np.int64)
    about = Fold(
        fold=fold,
        levels=list(recipe.levels),
        spacing_mm=recipe.overview.spacing_mm,
        settings=SETTINGS,
        order=LevelOrder.fit([neck], levels).to_dict(),
        trained_on=1,
        root_digest="",
    )
    save_member(folder / f"fold{fold}", about, build_fcn(SETTINGS, levels))


# --- answers


def test_several_networks_are_averaged_and_one_fold_is_asked_alone(tiny_store: Store, tmp_path: Path) -> None:
    recipe = tiny_store.recipe
    for fold in (0, 2):
        member(tmp_path, recipe, fold, seed=fold)
    localizer = Localizer(tmp_path)
    image = tiny_store.read("overview/image", 0)
    alone = [localizer.probabilities(image, recipe, [localizer.of_fold(fold)]) for fold in (0, 2)]
    both = localizer.probabilities(image, recipe, localizer.members)
    np.testing.assert_allclose(both, (alone[0] + alone[1]) / 2, atol=1e-6)
    assert not np.allclose(alone[0], alone[1])
    with pytest.raises(CheckpointInvalid, match="held out fold 1"):
        localizer.of_fold(1)


def test_labels_are_the_recipes_numbers_and_every_level_has_a_confidence(
    tiny_store: Store, tmp_path: Path
) -> None:
    member(tmp_path, tiny_store.recipe)
    found = Localizer(tmp_path).localize(tiny_store.read("overview/image", 0), tiny_store.recipe)
    assert found.labels.dtype == np.uint8
    assert set(np.unique(found.labels)) <= {0, *tiny_store.recipe.levels.values()}
    assert set(found.confidence) == set(tiny_store.recipe.levels)


def test_a_worker_is_sent_the_folder_alone(tiny_store: Store, tmp_path: Path) -> None:
    member(tmp_path, tiny_store.recipe)
    localizer = Localizer(tmp_path)
    sent = pickle.dumps(localizer)
    assert len(sent) < 1000
    again = pickle.loads(sent)  # noqa: S301 - our own bytes
    assert again.digest == localizer.digest
    image = tiny_store.read("overview/image", 1)
    expected = localizer.localize(image, tiny_store.recipe)
    np.testing.assert_array_equal(again.localize(image, tiny_store.recipe).labels, expected.labels)


def test_the_digest_is_that_of_the_weights(tiny_store: Store, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        member(tmp_path / name, tiny_store.recipe, seed=seed)
    a, b, c = (Localizer(tmp_path / name).digest for name in "abc")
    assert a == b != c


def test_what_cannot_be_used_is_refused(tiny_store: Store, tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match="no trained localizer"):
        Localizer(tmp_path)
    member(tmp_path, tiny_store.recipe)
    other = tiny_store.recipe.model_copy(update={"levels": {"C1": 1, "C3": 2}})
    with pytest.raises(CheckpointInvalid, match="C1, C3"):
        Localizer(tmp_path).check(other)
    weights = tmp_path / "fold0" / "localizer.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointInvalid, match="fold0 is damaged"):
        Localizer(tmp_path)


def test_only_sure_levels_are_kept(tiny_store: Store) -> None:
    labels = np.array([[[0, 1, 2]]], np.uint8)
    found = Localization(labels, {"C1": LEAST_CONFIDENCE, "C2": LEAST_CONFIDENCE - 0.01})
    assert found.sure(tiny_store.recipe).tolist() == [[[0, 1, 0]]]


# --- training


def test_a_finished_fold_is_left_alone_and_the_rest_is_trained(tiny_store: Store, tmp_path: Path) -> None:
    options = TrainLocalizerOptions(str(tiny_store.location), tmp_path, fold=1, epochs=1, device="cpu")
    train_localizer(options)
    assert is_finished(tmp_path / "fold1")
    assert not is_finished(tmp_path / "fold0")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    train_localizer(options)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    (about,) = (m.about for m in Localizer(tmp_path).members)
    outside = (tiny_store.table["fold"] != 1).sum()
    assert (about.fold, about.trained_on, about.levels) == (1, outside, tiny_store.levels)


def test_the_same_training_gives_the_same_weights(tiny_store: Store, tmp_path: Path) -> None:
    for name in "ab":
        train_localizer(
            TrainLocalizerOptions(str(tiny_store.location), tmp_path / name, fold=0, epochs=1, device="cpu")
        )
    assert Localizer(tmp_path / "a").digest == Localizer(tmp_path / "b").digest


def test_a_folder_that_cannot_be_made_is_said_before_the_training(tiny_store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run"
    options = TrainLocalizerOptions(str(tiny_store.location), out, epochs=10**9, device="cpu")
    with pytest.raises(OutputUnwritable, match="run cannot be written"):
        train_localizer(options)


def test_a_store_without_masks_trains_nothing(tmp_path: Path, build_store: Callable[..., Store]) -> None:
    store = build_store(tmp_path / "store", 4, {i: {"mask_source": "none"} for i in range(3)})
    with pytest.raises(FoldInvalid, match="studies with a mask are outside fold"):
        train_localizer(TrainLocalizerOptions(str(store.location), tmp_path / "run", device="cpu"))
    with pytest.raises(FoldInvalid, match="no fold 7"):
        train_localizer(TrainLocalizerOptions(str(store.location), tmp_path / "run", fold=7, device="cpu"))


def volume() -> tuple[torch.Tensor, torch.Tensor]:
    """Each voxel's class says what its HU is, so that what moves one must move the other."""
    classes = torch.zeros((72, 60, 60), dtype=torch.uint8)
    classes[10:60, 20:40, 25:35] = torch.arange(1, 6).repeat_interleave(10)[:, None, None].to(torch.uint8)
    return classes.to(torch.int16) * 200, classes


@pytest.mark.parametrize("seed", range(6))
def test_a_patch_moves_image_and_classes_alike(seed: int) -> None:
    image, classes = draw_patch(
        *volume(), np.random.default_rng(seed), replace(STILL, degrees=10, scale=0.15)
    )
    assert image.shape == classes.shape == (1, *PATCH)
    assert (classes > 0).sum() > 1000
    apart = (image - classes.float() * 200).abs()
    # Linear in the image, nearest in the classes: they part only where classes meet.
    assert (apart[classes > 0] < 250).float().mean() > 0.93
    assert apart[classes > 0].median() < 100


def test_without_distortion_a_patch_is_a_part_of_the_volume() -> None:
    image, classes = draw_patch(*volume(), np.random.default_rng(0), STILL)
    torch.testing.assert_close(image, classes.float() * 200, atol=1e-2, rtol=0)
    small = (part[:20, :10, :10] + 1 for part in volume())
    image, classes = draw_patch(*small, np.random.default_rng(0), STILL)
    assert (image > -1024).sum() == (classes > 0).sum() == 20 * 10 * 10


def test_beyond_a_truncated_field_of_view_there_is_nothing() -> None:
    for seed in range(8):
        image, classes = draw_patch(*volume(), np.random.default_rng(seed), replace(STILL, truncated=1.0))
        empty = (image == -1024).flatten(2).all(dim=2)[0]
        assert not classes[0][empty].any()
        seen = (~empty).nonzero()[:, 0]
        assert (seen.diff() == 1).all()  # one block
    assert DISTORTION.truncated > 0


# --- score


def test_centres_and_dice_in_closed_form() -> None:
    truth, found = np.zeros((10, 10, 10), int), np.zeros((10, 10, 10), int)
    truth[2:4, 0:5, 0:5], found[3:5, 0:5, 0:5] = 1, 1
    truth[8, 0, 0] = 2
    np.testing.assert_allclose(centres(truth, 3, 2.0), [[5, 4, 4], [16, 0, 0], [np.nan] * 3])
    np.testing.assert_allclose(dice(truth, found, 3), [0.5, 0.0, np.nan])


def test_identified_is_near_and_nearest() -> None:
    truth = np.array([[0.0, 0, 0], [18.0, 0, 0], [60.0, 0, 0], [90.0, 0, 0]])
    found = np.array([[8.0, 0, 0], [7.0, 0, 0], [81.0, 0, 0], [np.nan] * 3])
    assert identified(truth, found).tolist() == [True, False, False, False]
    assert identified(truth, np.full((4, 3), np.nan)).tolist() == [False] * 4


def test_the_summary_counts_levels_and_gain() -> None:
    truth = np.array([[0.0, 0, 0], [30.0, 0, 0], [np.nan] * 3])
    swapped = truth[[1, 0, 2]]
    rest = np.ones(3), np.zeros((1, 1, 1), int)
    right = StudyScore(truth, truth + 3.0, np.array([0.9, 0.7, np.nan]), *rest)
    wrong = StudyScore(truth, swapped, np.array([0.0, 0.0, np.nan]), *rest)
    invented = StudyScore(
        truth, np.nan_to_num(truth + 3.0), np.array([0.9, 0.7, 0.0]), np.ones(3), np.zeros((1, 1, 1), int)
    )
    figures = summary([(right, wrong), (invented, wrong)])
    assert figures["identification_rate"] == 1.0
    assert figures["hmm_gain"] == 1.0
    assert figures["dice_mean"] == pytest.approx(0.8)
    assert figures["centre_error_mm"] == pytest.approx(3 * 3**0.5, abs=1e-3)
    assert (figures["false_levels"], figures["levels"], figures["studies"]) == (1, 4, 2)
    json.dumps(figures, allow_nan=False)


def test_crops_of_true_classes_lie_where_the_stores_do(tmp_path: Path) -> None:
    """A phantom built with its masks: their coarse copies would cut almost the same crops."""
    write_phantom(tmp_path / "source", 1, 3, size=96, slices=80, masked_share=1)
    recipe = load_recipe("quick")
    writer = StoreWriter(tmp_path / "store", recipe)
    (study,) = discover_studies(tmp_path / "source", list(recipe.levels))
    store = writer.commit([process_study(study, writer)])
    classes = class_of_label(recipe)[store.read("overview/mask", 0)]
    apart = crop_distances(store, 0, classes)
    assert len(apart) >= 5
    assert max(apart.values()) < recipe.overview.spacing_mm
    moved = crop_distances(store, 0, np.roll(classes, 2, axis=1))
    for level, distance in moved.items():
        assert distance == pytest.approx(6.0, abs=apart[level] + 1e-6)


def test_each_study_is_scored_by_the_network_that_never_saw_it(
    tiny_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for fold in range(3):
        member(tmp_path, tiny_store.recipe, fold, seed=fold)
    options = ApplyLocalizerOptions(
        str(tiny_store.location), tmp_path, evaluate=True, json=True, device="cpu"
    )
    figures = apply_localizer(options)
    assert figures is not None
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == figures
    assert figures["studies"] == len(tiny_store)
    (tmp_path / "fold1" / "localizer.json").unlink()
    with pytest.raises(CheckpointInvalid, match="held out fold 1"):
        apply_localizer(options)


def test_the_table_names_the_studies_without_a_mask(
    tmp_path: Path, build_store: Callable[..., Store]
) -> None:
    store = build_store(tmp_path / "store", 3, {1: {"mask_source": "none"}})
    member(tmp_path / "run", store.recipe)
    out = tmp_path / "table.csv"
    apply_localizer(ApplyLocalizerOptions(str(store.location), tmp_path / "run", out, device="cpu"))
    lines = out.read_text().splitlines()
    assert lines[0] == "study_uid,level,L_mm,P_mm,S_mm,confidence"
    assert {line.split(",")[0] for line in lines[1:]} <= {"1.001"}
    with pytest.raises(FoldInvalid, match="--out"):
        apply_localizer(ApplyLocalizerOptions(str(store.location), tmp_path / "run", device="cpu"))
