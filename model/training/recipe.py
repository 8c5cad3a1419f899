"""How to train: views, network and stages, each recipe one TOML file beside this one or anywhere.

``seed`` is the seeds' own (the CNN alone on slices, then the BiLSTM on the slice probabilities), ``end2end``
the default (both together, with the competition's weights), ``quick`` the same idea for 2 CPU cores.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from model.data.augment import Settings
from model.data.views import ViewSettings
from model.networks.cnn_lstm import NetworkSettings
from model.options import TrainOptions
from spine_etl.errors import RecipeInvalid
from spine_etl.settings import StrictModel, load_settings

_SHIPPED = Path(__file__).parent / "recipes"

_Positive = Annotated[int, Field(ge=1)]
_Share = Annotated[float, Field(ge=0, lt=1)]


class Stage(StrictModel):
    """One training, from what the stage before it left (its best weights).

    Parameters
    ----------
    objective
        ``slices``: the CNN alone, binary cross-entropy of each slice whose label is known. ``sequence``: the
        BiLSTMs and heads alone on what the CNN, now fixed, says of each slice. ``joint``: all together.
        The last two minimise the competition's weighted log loss.
    epochs, batch_size
        ``batch_size`` counts slices for ``slices`` (at most, in a step), else studies; over all ranks.
    optimizer, learning_rate, weight_decay
        Adam's betas and epsilon are (0.9, 0.999, 1e-8).
    schedule
        ``plateau``: halved after ``patience`` epochs without a better validation loss. ``cosine``: risen over
        ``warmup`` (a share of all steps), then down to zero along a half cosine.
    studies, positions
        ``slices``: studies that are read together and their slices shuffled, over all ranks; slices looked
        at in each vertebra, those of the view by default.
    negatives
        ``slices``: unfractured slices for each fractured one, drawn anew each time; all by default.
    slice_factor
        ``joint``: weight of the slices' cross-entropy beside the competition's loss.
    clip_norm
        Longest gradient of a step; none by default.
    keep
        Which weights the stage leaves: its ``best`` on the validation studies, or its ``last``.
    """

    objective: Literal["slices", "sequence", "joint"]
    epochs: _Positive
    batch_size: _Positive
    optimizer: Literal["adam", "adamw"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["plateau", "cosine"] = "cosine"
    patience: _Positive = 30
    warmup: _Share = 0.05
    studies: _Positive = 16
    positions: _Positive | None = None
    negatives: Annotated[float, Field(gt=0)] | None = None
    slice_factor: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    keep: Literal["best", "last"] = "best"


class TrainingRecipe(StrictModel):
    """How to train.

    Parameters
    ----------
    bf16
        Forward passes in bfloat16 on a GPU (autocast); the CPU always computes in float32.
    validation_share
        Share of the training folds' studies that choose the weights and the temperature, never trained on.
    augment
        What is not named keeps its default.
    """

    name: str
    network: NetworkSettings
    view: ViewSettings
    augment: Settings = Settings()
    bf16: bool = False
    validation_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.15
    seed: Annotated[int, Field(ge=0)] = 0
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    def scaled(self, epochs_scale: float) -> TrainingRecipe:
        """The recipe with every stage's epochs and patience times that, at least 1."""

        def times(number: int) -> int:
            return max(1, round(number * epochs_scale))

        stages = [
            stage.model_copy(update={"epochs": times(stage.epochs), "patience": times(stage.patience)})
            for stage in self.stages
        ]
        return self.model_copy(update={"stages": tuple(stages)})

    def with_stages(self, **fields: int | None) -> TrainingRecipe:
        """The recipe with those fields (where not None) in every stage."""
        given = {name: value for name, value in fields.items() if value is not None}
        stages = tuple(Stage.model_validate(stage.model_dump() | given) for stage in self.stages)
        return self.model_copy(update={"stages": stages})


def resolve_recipe(options: TrainOptions) -> TrainingRecipe:
    """The recipe that the options name, with the options' changes.

    Raises
    ------
    RecipeInvalid
        If there is no such recipe, it is invalid, or an option's value is not accepted.
    """
    if not 0 < options.epochs_scale < math.inf:
        raise RecipeInvalid(f"--epochs-scale must be a number above 0, not {options.epochs_scale}.")
    recipe = load_recipe(options.recipe)
    try:
        recipe = recipe.with_stages(epochs=options.epochs, batch_size=options.batch_size)
    except ValidationError as error:
        raise RecipeInvalid("--epochs and --batch-size must be at least 1.") from error
    return recipe.scaled(options.epochs_scale)


def load_recipe(name: str | Path) -> TrainingRecipe:
    """A training recipe that ships (``end2end``, ``quick``, ``seed``), by name, or a TOML file by its path.

    Raises
    ------
    RecipeInvalid
        If there is no such recipe, the file is not TOML, or a key or value in it is not accepted.
    """
    return load_settings(name, TrainingRecipe, _SHIPPED)
