"""A training from its options to the finished run: `model.train` without the command line.

<run>/config.json            the resolved options and recipe
      metrics.jsonl          one line per epoch
      tensorboard/           the same figures as curves
      last.pt                the state to resume from; last.previous.pt is the one before it
      best.safetensors       the weights that the last finished stage, or epoch, keeps
      model.json             their description, written last
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.data.inputs import inputs_of
from model.data.loader import Batches
from model.data.targets import split, study_labels
from model.data.views import THREE_WINDOWS, level_labels
from model.device import choose_device, within_memory
from model.distributed import (
    Ranks,
    broadcast_module,
    broadcast_object,
    destroy_process_group,
    init_process_group,
)
from model.inference.calibration import fit_temperature, probabilities
from model.inference.metrics import constant_baselines, weighted_log_loss
from model.inference.predictor import Predictor
from model.inference.weights import MODEL, WEIGHTS, ModelDescription, load_trunk_weights, load_weights
from model.networks.batch_norm import with_joint_batch_norm
from model.networks.cnn_lstm import CnnLstm
from model.options import TrainOptions
from model.output import write_errors, write_file
from model.training.cached_features import CachedBatch, CachedBatches, CachedFeatures, cache_features
from model.training.checkpoint import LAST, check_identity, load_last, save_last
from model.training.objectives import build_objective
from model.training.precise_batch_norm import measure_batch_norms
from model.training.recipe import Stage, resolve_recipe
from model.training.runlog import RunLog
from model.training.stage import StageRun
from model.training.validation import Validation, cached_loss, validation_split
from spine_etl.atomic import TEMPORARY_SUFFIX
from spine_etl.errors import CheckpointInvalid
from spine_etl.store import Store, open_store

_CONFIG = "config.json"


def run_training(options: TrainOptions) -> ModelDescription:
    """Train as the options ask and leave the run in ``options.out``.

    Raises
    ------
    RecipeInvalid, FoldInvalid, DeviceUnavailable, DeviceMemoryFull
        If the options cannot be followed.
    CheckpointInvalid
        If ``out`` already has a run and ``resume`` is off, or its run cannot be resumed with these options.
    LossNotFinite
        If a loss is not finite; it names the studies of the batch.
    StoreError
        If the store, or a study's objects, cannot be read; it names the study.
    """
    device = choose_device(options.device)
    ranks = init_process_group(device)
    try:
        with within_memory(device):
            return _TrainingRun(options, device, ranks).train()
    finally:
        destroy_process_group(ranks)


def _load_resumed(options: TrainOptions, ranks: Ranks) -> dict[str, Any] | None:
    """The state to resume from, on all ranks; only rank 0 needs access to the run's folder."""
    if not options.resume:
        return None
    return broadcast_object(load_last(options.out) if ranks.is_main else None, ranks)


def _open_store(options: TrainOptions, resumed: dict[str, Any] | None, ranks: Ranks) -> Store:
    """The store in the version that the run started with; for a new run, the newest version.

    All ranks open the same version, even if a build commits one in the meantime.
    """
    version = resumed["identity"]["version"] if resumed else None
    store = open_store(options.store, version, cache=options.cache)
    version = broadcast_object(store.version, ranks)
    return store if store.version == version else open_store(options.store, version, cache=options.cache)


class _TrainingRun:
    def __init__(self, options: TrainOptions, device: torch.device, ranks: Ranks) -> None:
        self.options, self.device, self.ranks = options, device, ranks
        self.run = options.out
        self.recipe = resolve_recipe(options)
        self.resumed = _load_resumed(options, ranks)
        self.store = _open_store(options, self.resumed, ranks)
        train, _ = split(self.store, options.fold)
        self.learning, validating = validation_split(self.store, train, self.recipe.validation_share)
        self.network = self._build_network()
        self.predictor = Predictor(self.network, self.recipe.view, self.store, device)
        self.validation = Validation(self.predictor, validating)

    def _build_network(self) -> CnnLstm:
        random.seed(self.recipe.seed)
        np.random.seed(self.recipe.seed)  # noqa: NPY002 - libraries may draw from it
        torch.manual_seed(self.recipe.seed)
        network = CnnLstm(self.recipe.network, self.recipe.view.channels, len(self.store.levels))
        if self.options.weights:
            load_trunk_weights(self.options.weights, network.encoder.trunk)
        network = network.to(self.device)
        with_joint_batch_norm(network, self.device, self.ranks)
        if self.options.compile:
            network.encoder.trunk.compile(dynamic=True)
        return network

    def train(self) -> ModelDescription:
        """Run all stages that are not finished yet, then describe the weights."""
        state = self.resumed
        self._prepare_folder()
        first_epoch = (state["stage"], state["source"]["epoch"]) if state else (0, 0)
        with RunLog(self.run, enabled=self.ranks.is_main, first_epoch=first_epoch) as log:
            log.message(
                f"{self.recipe.name}: {len(self.learning)} studies to learn from,"
                f" {len(self.validation.studies)} to validate with, fold {self.options.fold} held out;"
                f" {self.device} x {self.ranks.world_size}"
            )
            for index, stage in enumerate(self.recipe.stages):
                if state is None or state["stage"] <= index:
                    self._train_stage(index, stage, state if state and state["stage"] == index else None, log)
            return self._finish(log)

    def _identity(self) -> dict[str, Any]:
        """What a resumed training must share with the run that it continues."""
        windows = [[window.center, window.width] for window in THREE_WINDOWS]
        return {
            "store": self.store.fingerprint,
            "version": self.store.version,
            "root_digest": self.store.root_digest,
            "fold": self.options.fold,
            "recipe": self.recipe.model_dump(mode="json"),
            "world": self.ranks.world_size,
            **({"windows": windows} if self.recipe.view.kind == "windows" else {}),
        }

    def _prepare_folder(self) -> None:
        """Check that the run's folder is new, or has the run to resume, and write the configuration."""
        if self.resumed:
            check_identity(self.run, self.resumed, self._identity())
        if not self.ranks.is_main:
            return
        if not self.resumed and any((self.run / name).exists() for name in (LAST, MODEL)):
            raise CheckpointInvalid(
                f"{self.run.name} already has a run.", action="Add --resume, or name another --out."
            )
        with write_errors(self.run):
            for leftover in self.run.glob(f".*{TEMPORARY_SUFFIX}"):  # a killed run's unfinished files
                leftover.unlink()
        if not self.resumed:
            options = {name: str(value) if isinstance(value, Path) else value
                       for name, value in asdict(self.options).items()}  # fmt: skip
            config = {**self._identity(), "options": options}
            write_file(self.run / _CONFIG, (json.dumps(config, indent=1) + "\n").encode())

    def _train_stage(self, index: int, stage: Stage, state: dict[str, Any] | None, log: RunLog) -> None:
        if state:
            self.network.load_state_dict(state["network"])
        elif index:
            self._load_kept_weights()
        source, inputs, validate = self._source(stage)
        try:
            stage_run = StageRun(
                index=index, stage=stage, network=self.network,
                objective=build_objective(stage, self.network, self.ranks), source=source, inputs=inputs,
                measure_batch_norms=partial(self._measure_batch_norms, stage), validate=validate,
                save=self._save, save_every=self.options.save_every, device=self.device, ranks=self.ranks,
                bf16=self.recipe.bf16, log=log, run=self.run, uids=self.store.study_uids,
            )  # fmt: skip
            if state:
                stage_run.load_state(state)
            elif self.ranks.is_main:
                # Before this stage replaces the weights that it starts with, and twice, so that the
                # previous state belongs to this stage too.
                self._save(stage_run.state())
                self._save(stage_run.state())
            stage_run.train()
        finally:
            source.close()

    def _load_kept_weights(self) -> None:
        """Load the weights that the stage before kept, on all ranks."""
        if self.ranks.is_main:
            load_weights(self.run / WEIGHTS, self.network)
        broadcast_module(self.network, self.ranks)

    def _source(
        self, stage: Stage
    ) -> tuple[Batches | CachedBatches, Callable[[Any], Any], Callable[[], float]]:
        """A stage's batches, the function that turns a batch into inputs, and the validation loss."""
        world, seed = self.ranks.world_size, self.recipe.seed
        if stage.objective == "sequence":
            validating = cache_features(self.predictor, self.validation.studies)
            batches = CachedBatches(
                cache_features(self.predictor, self.learning), self.learning,
                batch_size=max(1, stage.batch_size // world), seed=seed, ranks=self.ranks,
            )  # fmt: skip
            return batches, _fields, partial(cached_loss, self.network, validating)
        view, studies = self.recipe.view, stage.batch_size
        if stage.objective == "slices":
            view = view.model_copy(update={"positions": stage.positions or view.positions})
            studies = stage.studies
        source = Batches(
            self.store, self.learning, batch_size=max(1, studies // world), device=self.device,
            seed=seed, rank=self.ranks.rank, world_size=world,
        )  # fmt: skip
        labels = level_labels(self.store.recipe, self.device)
        inputs = partial(inputs_of, level_labels=labels, view=view, augment=self.recipe.augment)
        slices = stage.objective == "slices"
        return source, inputs, self.validation.slice_loss if slices else self.validation.column_loss

    def _measure_batch_norms(self, stage: Stage) -> None:
        if stage.objective != "sequence":  # the BiLSTMs and heads have no batch norm
            measure_batch_norms(self.predictor, self.learning)

    def _save(self, state: dict[str, Any]) -> None:
        save_last(self.run, {"identity": self._identity(), **state})

    def _finish(self, log: RunLog) -> ModelDescription:
        """Fit the temperature and describe the weights."""
        self._load_kept_weights()
        labels, logits = self.validation.labels_and_logits()
        temperature = fit_temperature(labels, logits)
        training_folds = np.flatnonzero(self.store.table["fold"] != self.options.fold)
        baselines = constant_baselines(study_labels(self.store, training_folds))
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
        if self.ranks.is_main:
            write_file(self.run / MODEL, (model.model_dump_json(indent=1) + "\n").encode())
        loss = weighted_log_loss(labels, probabilities(logits, temperature))
        constant = np.broadcast_to(baselines["weighted_prevalence"], labels.shape)
        log.message(
            f"Trained. Weighted log loss on the validation studies: {loss:.4f} at temperature"
            f" {temperature:.2f}; that of the best constant is {weighted_log_loss(labels, constant):.4f}."
        )
        return model


def _fields(batch: CachedBatch) -> CachedFeatures:
    return batch.fields
