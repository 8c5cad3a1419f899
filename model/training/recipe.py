"""Training recipes: view, network, augmentation and stages, each recipe a TOML file.

``seed`` follows the baseline (the CNN alone on slices, then the BiLSTM on the slice probabilities),
``end2end`` is the default (both together, on the competition's loss), ``quick`` is the same idea for 2 CPU
cores.
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
    """One training with one objective; it starts from the weights that the stage before it kept.

    Parameters
    ----------
    objective
        ``slices``: the CNN alone, on the binary cross-entropy of each slice whose label is known.
        ``sequence``: the BiLSTMs and heads alone, on the features of the CNN, which is now fixed.
        ``joint``: all together. The last two minimise the competition's weighted log loss.
    epochs, batch_size
        ``batch_size`` counts studies over all ranks; for ``slices``, the most slices in a step.
    optimizer, learning_rate, weight_decay
        Adam's betas and epsilon are (0.9, 0.999, 1e-8).
    schedule
        ``plateau``: halved after ``patience`` epochs without a validation loss at least 0.01 % below the
        lowest. ``cosine``: rises over ``warmup`` (a share of the stage's samples), then falls to zero along
        a half cosine.
    studies, positions
        ``slices``: number of studies, over all ranks, whose slices are shuffled together; number of slices of
        each vertebra, by default that of the view.
    negatives
        ``slices``: unfractured slices for each fractured one, drawn again for each batch; all by default.
    slice_factor
        ``joint``: weight of the slices' cross-entropy, which is added to the competition's loss.
    clip_norm
        Maximum norm of a step's gradient; no limit by default.
    keep
        Which weights the stage keeps: those with the ``best`` validation loss, or the ``last`` ones.
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
    """A complete training.

    Parameters
    ----------
    bf16
        Run forward passes in bfloat16 on a GPU (autocast); a CPU always computes in float32.
    validation_share
        Share of the training folds' studies that are not trained on, but choose the weights and the
        temperature.
    seed
        Of the initial weights, the order of the studies, and augmentation.
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
        """The recipe with every stage's epochs and patience multiplied by that, at least 1."""

        def scaled(number: int) -> int:
            return max(1, round(number * epochs_scale))

        stages = [
            stage.model_copy(update={"epochs": scaled(stage.epochs), "patience": scaled(stage.patience)})
            for stage in self.stages
        ]
        return self.model_copy(update={"stages": tuple(stages)})

    def with_stages(self, **fields: int | None) -> TrainingRecipe:
        """The recipe with those fields in every stage, where they are not None."""
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
    """Load a recipe that ships (``end2end``, ``quick``, ``seed``) by name, or any TOML file by its path.

    Raises
    ------
    RecipeInvalid
        If there is no such recipe, the file is not TOML, or a key or value in it is not accepted.
    """
    return load_settings(name, TrainingRecipe, _SHIPPED)
