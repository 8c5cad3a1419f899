"""From a finished run and a study to the picture: `model.explain` without the command line."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from model.distributed import choose_device
from model.inference.calibration import probabilities
from model.inference.curves import LevelView, draw_study, save_picture
from model.inference.predictor import Predictor
from model.inference.weights import ModelDescription, load_model
from model.options import ExplainOptions
from spine_etl.store import Store, open_store


def draw(options: ExplainOptions) -> None:
    """Draw the study into ``options.out``.

    The curves are the CNN's slice probabilities, as they are; the vertebra's and the patient's are at the
    run's temperature. A patient without a located vertebra has the weighted prevalence.

    Raises
    ------
    StudyNotInStore, StoreError
        If the study, or its objects, cannot be read.
    CheckpointInvalid
        If the run is not finished, is damaged or of another recipe.
    """
    store = open_store(options.store, cache=options.cache)
    study = store.index(options.study)
    network, model = load_model(options.checkpoint, store)
    device = choose_device(options.device)
    levels: list[LevelView | None] = [None] * len(store.levels)
    patient = model.weighted_prevalence[-1]
    if store.located()[study].any():
        only = np.array([study], dtype=np.int64)
        predictor = Predictor(network.to(device), model.view, store, device)
        ((_, inputs, logits),) = predictor.logits(only)
        columns = probabilities(logits.columns[0].cpu().numpy(), model.temperature)
        slices = probabilities(logits.slices[0].float().cpu().numpy())
        positions = inputs.positions[0].cpu().numpy()
        patient = float(columns[-1])
        image, mask = store.image(study), store.mask(study)
        for k in inputs.located[0].nonzero()[:, 0].tolist():
            own = mask[k] == store.recipe.levels[store.levels[k]]
            levels[k] = LevelView(
                store.levels[k], image[k], own, positions[k], slices[k], float(columns[k]),
                own_boxes(store, study, k), int(store.table["fracture"][study, k]),
            )  # fmt: skip
    title = _title(store, study, model, patient)
    figure = draw_study(title, levels, store.levels, store.recipe.crop.spacing_mm)
    save_picture(figure, options.out)


def own_boxes(store: Store, study: int, level: int) -> npt.NDArray[Any]:
    """(k, 6): the level's own boxes, and those of no level, as far as they touch its crop."""
    mine = np.isin(store.table["box_level"], [level, -1]) & (store.table["box_study"] == study)
    boxes = store.table["box_crop"][mine, level]
    touching: npt.NDArray[Any] = boxes[~np.isnan(boxes).any(axis=1)]
    return touching


def _title(store: Store, study: int, model: ModelDescription, patient: float) -> str:
    held_out = int(store.table["fold"][study]) == model.fold
    role = "held out from training" if held_out else "of a training fold"
    return f"{store.study_uids[study]}, {role}: patient {patient:.2f} ({model.recipe})"
