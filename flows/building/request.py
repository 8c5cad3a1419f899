"""What to build: the options of a build as one value."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from spine_etl.recipe import Recipe
from spine_etl.source.label_names import LabelNames


def available_cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class BuildRequest:
    """One build, as requested on the command line or by a deployed run.

    Parameters
    ----------
    source
        A folder, a ``.zip`` or ``s3://bucket/prefix`` in the RSNA 2022 layout.
    store
        A folder or ``s3://bucket/prefix``; created if it does not exist.
    recipe
        What to crop, and at which resolution.
    workers
        Processes of the local Dask cluster, and threads that compare the source with the store.
    dask
        ``tcp://host:port`` of a running Dask scheduler; without it a local cluster is started.
    localizer
        Folder of a trained localizer, for studies without a segmentation.
    masks
        Folder, ``.zip`` or ``s3://bucket/prefix`` of segmentations for studies that have none.
    label_names
        The names of the labels in ``masks``; required with it.
    folds
        CSV table of the fold of each study; without it, as the recipe or the newest version says.
    settle_s
        Leave new or changed studies for the next build if their files changed within this many seconds:
        they may still be being copied. 0 takes every study.
    """

    source: str
    store: str
    recipe: Recipe
    workers: int = field(default_factory=available_cores)
    dask: str | None = None
    localizer: str | None = None
    settle_s: float = 0
    masks: str | None = None
    label_names: LabelNames | None = None
    folds: str | None = None

    def flow_parameters(self) -> dict[str, object]:
        """This request as JSON parameters of the deployed flow, `flows.building.flow.build_dataset`."""
        return {
            "source": self.source,
            "store": self.store,
            "recipe": self.recipe.model_dump(mode="json"),
            "workers": self.workers,
            "dask": self.dask,
            "localizer": self.localizer,
            "settle_minutes": self.settle_s / 60,
            "masks": self.masks,
            "label_names": self.label_names.model_dump(mode="json") if self.label_names else None,
            "folds": self.folds,
        }
