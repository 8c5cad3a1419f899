"""A training from its options to the finished run: `model.train` without the command line."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from model.data.inputs import inputs_of
from model.data.loader import Batches
from model.data.targets import Indices, split
from model.data.views import THREE_WINDOWS, own_labels
from model.distributed import (
    Ranks,
    alike,
    choose_device,
    join,
    leave,
    told,
    with_joint_batch_norm,
    within_memory,
)
from model.inference.calibration import fit_temperature, probabilities
from model.inference.metrics import constant_baselines, weighted_log_loss
from model.inference.predictor import column_logits, inner_split, labels_of, seen
from model.inference.weights import MODEL, WEIGHTS, ModelDescription, load_trunk_weights, load_weights
from model.networks.cnn_lstm import CnnLstm
from model.options import TrainOptions
from model.output import write_atomically
from model.training.cached_features import EncodedBatch, EncodedBatches, encode_studies
from model.training.checkpoint import LAST, check_identity, load_last, save_last
from model.training.losses import column_term, slice_term
from model.training.objectives import Encoded, objective_of
from model.training.precise_batch_norm import measure_batch_norms
from model.training.recipe import Stage, TrainingRecipe, load_recipe
from model.training.runlog import RunLog
from model.training.stage import StageRun
from spine_etl.errors import CheckpointInvalid, RecipeInvalid
from spine_etl.store import Store, open_store

_CONFIG = "config.json"


def fit(options: TrainOptions) -> ModelDescription:
    """Train as the options say and leave the run in ``options.out``.

    Raises
    ------
    RecipeInvalid, FoldInvalid, DeviceUnavailable, DeviceMemoryFull
        If the options cannot be followed.
    CheckpointInvalid
        If ``out`` holds a run already and ``resume`` is off, or one that cannot be gone on with.
    LossNotFinite
        If a loss is no number; it names the batch's studies.
    StoreError
        If the store, or a study's objects, cannot be read; it names the study.
    """
    device = choose_device(options.device)
    ranks = join(device)
    try:
        with within_memory(device):
            return _Training(options, device, ranks).go()
    finally:
        leave(ranks)


def resolved_recipe(options: TrainOptions) -> TrainingRecipe:
    """The recipe with what the options change in it."""
    if not 0 < options.epochs_scale < math.inf:
        raise RecipeInvalid(f"--epochs-scale must be a number above 0, not {options.epochs_scale}.")
    recipe = load_recipe(options.recipe)
    try:
        recipe = recipe.with_stages(epochs=options.epochs, batch_size=options.batch_size)
    except ValidationError as error:
        raise RecipeInvalid("--epochs and --batch-size must be at least 1.") from error
    return recipe.scaled(options.epochs_scale)


def _last(options: TrainOptions, ranks: Ranks) -> dict[str, Any] | None:
    """Where the run to go on with stands, on all ranks, though only the first one need see its folder."""
    if not options.resume:
        return None
    return told(load_last(options.out) if ranks.first else None, ranks)


def _opened(options: TrainOptions, resumed: dict[str, Any] | None, ranks: Ranks) -> Store:
    """The store in the version that the run began with, the newest for a new run; the same on all ranks,
    though a build may commit while they open it."""
    version = resumed["identity"]["version"] if resumed else None
    store = open_store(options.store, version, cache=options.cache)
    version = told(store.version, ranks)
    return store if store.version == version else open_store(options.store, version, cache=options.cache)


@dataclass(frozen=True)
class _Parts:
    """The studies of a training: to learn from, to validate with, and all of the training folds."""

    learning: Indices
    validation: Indices
    labels: Any


class _Training:
    def __init__(self, options: TrainOptions, device: torch.device, ranks: Ranks) -> None:
        self.options, self.device, self.ranks = options, device, ranks
        self.recipe = resolved_recipe(options)
        self.resumed = _last(options, ranks)
        self.store = _opened(options, self.resumed, ranks)
        train, _ = split(self.store, options.fold)
        learning, validation = inner_split(self.store, train, self.recipe.validation_share)
        outside = np.flatnonzero(self.store.table["fold"] != options.fold)
        self.parts = _Parts(learning, validation, labels_of(self.store, outside))
        self.own = own_labels(self.store.recipe, device)
        self.run = options.out
        self.network = self._build()

    def _build(self) -> CnnLstm:
        random.seed(self.recipe.seed)
        np.random.seed(self.recipe.seed)  # noqa: NPY002 - whatever library draws from it
        torch.manual_seed(self.recipe.seed)
        network = CnnLstm(self.recipe.network, self.recipe.view.channels, len(self.store.levels))
        if self.options.weights:
            load_trunk_weights(self.options.weights, network.encoder.trunk)
        network = network.to(self.device)
        with_joint_batch_norm(network, self.device, self.ranks)
        if self.options.compile:
            network.encoder.trunk.compile(dynamic=True)
        return network

    def identity(self) -> dict[str, Any]:
        """What a resumed training has in common with the one it goes on with."""
        windows = [[window.center, window.width] for window in THREE_WINDOWS]
        return {
            "store": self.store.fingerprint,
            "version": self.store.version,
            "root_digest": self.store.root_digest,
            "fold": self.options.fold,
            "recipe": self.recipe.model_dump(mode="json"),
            "world": self.ranks.world,
            **({"windows": windows} if self.recipe.view.kind == "windows" else {}),
        }

    def go(self) -> ModelDescription:
        state = self.resumed
        self._prepare()
        since = (state["stage"], state["source"]["epoch"]) if state else (0, 0)
        with RunLog(self.run, speaks=self.ranks.first, since=since) as log:
            parts = self.parts
            log.say(
                f"{self.recipe.name}: {len(parts.learning)} studies to learn from, {len(parts.validation)} to"
                f" validate with, fold {self.options.fold} held out; {self.device} x {self.ranks.world}"
            )
            for index, stage in enumerate(self.recipe.stages):
                if state is None or state["stage"] <= index:
                    here = state if state and state["stage"] == index else None
                    self._stage(index, stage, here, log)
            return self._finish(log)

    def _prepare(self) -> None:
        """Lay the run's folder out, or see that it is the one to go on with."""
        if self.resumed:
            check_identity(self.run, self.resumed, self.identity())
        elif self.ranks.first:
            if any((self.run / name).exists() for name in (LAST, MODEL)):
                raise CheckpointInvalid(
                    f"{self.run.name} already holds a run.", action="Add --resume, or name another --out."
                )
            options = {name: str(value) if isinstance(value, Path) else value
                       for name, value in asdict(self.options).items()}  # fmt: skip
            config = {**self.identity(), "options": options}
            write_atomically(self.run / _CONFIG, (json.dumps(config, indent=1) + "\n").encode())

    def _stage(self, index: int, stage: Stage, state: dict[str, Any] | None, log: RunLog) -> None:
        if state:
            self.network.load_state_dict(state["network"])
        elif index:
            self._load_kept()
        source, inputs, validate = self._work(stage)
        settle = _nothing if stage.objective == "sequence" else self._measure_batch_norms
        try:
            at_work = StageRun(
                index=index, stage=stage, network=self.network,
                objective=objective_of(stage, self.network, self.ranks), source=source, inputs=inputs,
                settle=settle, validate=validate, save=self._save, save_every=self.options.save_every,
                device=self.device, ranks=self.ranks, bf16=self.recipe.bf16, log=log, run=self.run,
                uids=self.store.study_uids,
            )  # fmt: skip
            if state:
                at_work.load_state(state)
            elif self.ranks.first:
                # Before this stage replaces the weights that it begins with; and twice, so that the state
                # before the last is of this stage too.
                self._save(at_work.state())
                self._save(at_work.state())
            at_work.go()
        finally:
            source.close()

    def _load_kept(self) -> None:
        """The weights that the last stage left."""
        if self.ranks.first:
            load_weights(self.run / WEIGHTS, self.network)
        alike(self.network, self.ranks)

    def _work(
        self, stage: Stage
    ) -> tuple[Batches | EncodedBatches, Callable[[Any], Any], Callable[[], float]]:
        """A stage's batches, what becomes of each, and its validation loss."""
        learning, world = self.parts.learning, self.ranks.world
        if stage.objective == "sequence":
            encode = partial(encode_studies, self.network, self.recipe.view, self.store, device=self.device)
            validation = encode(self.parts.validation)
            batches = EncodedBatches(
                encode(learning), learning, batch_size=max(1, stage.batch_size // world),
                seed=self.recipe.seed, ranks=self.ranks,
            )  # fmt: skip
            return batches, _fields, partial(self._sequence_loss, validation)
        view, studies = self.recipe.view, stage.batch_size
        if stage.objective == "slices":
            view = view.model_copy(update={"positions": stage.positions or view.positions})
            studies = stage.studies
        source = Batches(
            self.store, learning, batch_size=max(1, studies // world), device=self.device,
            seed=self.recipe.seed, rank=self.ranks.rank, world=world,
        )  # fmt: skip
        inputs = partial(inputs_of, own=self.own, view=view, augment=self.recipe.augment)
        return source, inputs, self._slice_loss if stage.objective == "slices" else self._column_loss

    def _measure_batch_norms(self) -> None:
        measure_batch_norms(self.network, self.recipe.view, self.store, self.parts.learning, self.device)

    def _column_loss(self) -> float:
        labels, logits = self._validation_logits()
        return weighted_log_loss(labels, probabilities(logits))

    def _validation_logits(self) -> tuple[Any, Any]:
        """Labels (-1 where there is nothing to look at) and logits of the validation studies."""
        studies = self.parts.validation
        logits = column_logits(self.network, self.recipe.view, self.store, studies, self.device)
        labels = np.where(np.isnan(logits), -1, labels_of(self.store, studies))
        return labels, np.nan_to_num(logits)

    @torch.inference_mode()
    def _sequence_loss(self, encoded: Encoded) -> float:
        self.network.eval()
        columns = self.network.sequence(encoded.features, encoded.slices, encoded.located)
        total, weight, _ = column_term(columns, encoded.labels, encoded.known)
        return float(total / weight)

    def _slice_loss(self) -> float:
        totals: list[Tensor] = []
        for _, inputs, logits in seen(
            self.network, self.recipe.view, self.store, self.parts.validation, self.device
        ):
            known = inputs.slices.masked_fill(~inputs.located[..., None], -1.0)
            totals.append(torch.stack(slice_term(logits.slices, known)[:2]))
        total, weight = torch.stack(totals).sum(dim=0).tolist()
        return float(total / max(weight, 1.0))

    def _save(self, state: dict[str, Any]) -> None:
        save_last(self.run, {"identity": self.identity(), **state})

    def _finish(self, log: RunLog) -> ModelDescription:
        """Fit the temperature and describe the weights."""
        self._load_kept()
        labels, logits = self._validation_logits()
        temperature = fit_temperature(labels, logits)
        baselines = constant_baselines(self.parts.labels)
        model = ModelDescription(
            recipe=self.recipe.name,
            network=self.recipe.network,
            view=self.recipe.view,
            levels=self.store.levels,
            fingerprint=self.store.fingerprint,
            version=self.store.version,
            root_digest=self.store.root_digest,
            fold=self.options.fold,
            temperature=temperature,
            prevalence=baselines["prevalence"].tolist(),
            weighted_prevalence=baselines["weighted_prevalence"].tolist(),
        )
        if self.ranks.first:
            write_atomically(self.run / MODEL, (model.model_dump_json(indent=1) + "\n").encode())
        loss = weighted_log_loss(labels, probabilities(logits, temperature))
        constant = np.broadcast_to(baselines["weighted_prevalence"], labels.shape)
        log.say(
            f"Trained. On the validation studies: weighted log loss {loss:.4f} at temperature"
            f" {temperature:.2f}; the constant's is {weighted_log_loss(labels, constant):.4f}."
        )
        return model


def _nothing() -> None:
    """The BiLSTM and its heads have no batch norm."""


def _fields(batch: EncodedBatch) -> Encoded:
    return batch.fields
