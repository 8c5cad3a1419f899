"""Build a dataset of which only some studies are segmented: build, train a localizer, build again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flows.building.build import build
from flows.building.request import BuildRequest
from flows.building.summary import Summary
from flows.console import exit_on_interrupt, print_line
from flows.prefect_server import set_prefect_defaults
from spine_etl.errors import StoreError
from spine_etl.store import open_store


def bootstrap(request: BuildRequest, epochs: int) -> Summary:
    """Run all steps as one Prefect flow, and return the summary of the last build.

    Parameters
    ----------
    request
        What to build. Its localizer is trained first, unless it is already.
    epochs
        Epochs of the localizer's training.

    Raises
    ------
    SpineError
        If the source or the store cannot be used, or too few studies are segmented to train on.
    ValueError
        If the request names no localizer.
    """
    if request.localizer is None:
        raise ValueError("a bootstrap needs the folder of a localizer")
    localizer = Path(request.localizer)
    set_prefect_defaults()
    from prefect import flow, task

    @task(name="train-localizer")
    def train() -> None:
        from model.localizer.training import train_localizer
        from model.options import TrainLocalizerOptions

        train_localizer(TrainLocalizerOptions(store=request.store, out=localizer, epochs=epochs))

    @flow(name="bootstrap")
    def build_train_build() -> Summary:
        if not _is_trained(localizer, _number_of_folds(request)):
            build(replace(request, localizer=None))
            print_line("Training the localizer ...")
            train()
        return build(request)

    with exit_on_interrupt():
        return build_train_build()


def _number_of_folds(request: BuildRequest) -> int:
    """That of the store's newest version, which may have been given folds, or else the recipe's."""
    try:
        return open_store(request.store).recipe.folds
    except StoreError:
        return request.recipe.folds


def _is_trained(localizer: Path, folds: int) -> bool:
    from model.localizer.folds import is_finished

    return all(is_finished(localizer / f"fold{fold}") for fold in range(folds))
