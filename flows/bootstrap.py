"""From few segmentations to a whole dataset: build, train a localizer, localize the rest, crop them, commit.

    python -m flows.bootstrap --source DIR --store PATH --localizer FOLDER [--recipe FILE] [--epochs N]
                              [--workers N | --dask tcp://...] [--settle MINUTES]

The first version holds every study's overview and the crops of those that have a segmentation. A network for
each fold learns from the others' segmentations. The second version holds the crops of all. Killed at any
moment, the same command goes on: studies and folds that are finished are left alone. Once the localizer is
there, the command builds new studies with it and trains no more.

Exit status: 0 all well; 3 some studies were refused (the others are in the store); 1 nothing could be done;
2 the command line is wrong; 130 interrupted (run it again: it resumes).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flows.cli import (
    build_arguments,
    interruptible,
    positive,
    run,
    say,
    settle_prefect,
    store_of,
)

if TYPE_CHECKING:
    from flows.building.summary import Summary
    from spine_etl.recipe import Recipe


def main(argv: list[str] | None = None) -> int:
    parser = build_arguments("flows.bootstrap", "Build a dataset of which only some studies are segmented.")
    parser.add_argument("--localizer", required=True, metavar="FOLDER", help="where it is, or will be")
    parser.add_argument(
        "--epochs", type=positive, default=40, help="times that the localizer sees each study (default: 40)"
    )
    options = parser.parse_args(argv)

    def work() -> Summary:
        from spine_etl.recipe import load_recipe

        recipe = load_recipe(options.recipe)
        return bootstrap(
            options.source,
            store_of(options, recipe),
            recipe,
            options.localizer,
            epochs=options.epochs,
            workers=options.workers,
            dask=options.dask,
            settle_s=options.settle,
        )

    return run(work, options.json)


def bootstrap(
    source: str,
    store: str,
    recipe: Recipe,
    localizer: str,
    *,
    epochs: int = 40,
    workers: int | None = None,
    dask: str | None = None,
    settle_s: float = 0,
) -> Summary:
    """The whole path as one Prefect flow.

    Raises
    ------
    SpineError
        If the source or the store cannot be used, or too few studies are segmented to train on.
    """
    settle_prefect()
    from prefect import flow, task

    from flows.build_dataset import build

    @task(name="train-localizer")
    def train() -> None:
        from model.localizer.training import train_localizer
        from model.options import TrainLocalizerOptions

        train_localizer(TrainLocalizerOptions(store=store, out=Path(localizer), epochs=epochs))

    @flow(name="bootstrap")
    def path() -> None:
        if not _is_trained(localizer, recipe.folds):
            build(source, store, recipe, workers=workers, dask=dask, settle_s=settle_s)
            say("Training the localizer ...")
            train()
        built = build(
            source, store, recipe, workers=workers, dask=dask, localizer=localizer, settle_s=settle_s
        )
        summaries.append(built)

    summaries: list[Summary] = []
    with interruptible():
        path()
    return summaries[0]


def _is_trained(localizer: str, folds: int) -> bool:
    from model.localizer.folds import is_finished

    return all(is_finished(Path(localizer) / f"fold{fold}") for fold in range(folds))


if __name__ == "__main__":
    sys.exit(main())
