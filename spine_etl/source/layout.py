"""The folder layout of a source: slices, segmentations and tables as in the RSNA 2022 data set.

    <root>/train_images/<StudyInstanceUID>/<n>.dcm
    <root>/segmentations/<StudyInstanceUID>.nii[.gz]      for some studies
    <root>/train.csv                                      StudyInstanceUID, patient_overall, C1 ... C7
    <root>/train_bounding_boxes.csv                       StudyInstanceUID, x, y, width, height, slice_number

The tables are optional. An invalid table refuses the whole source before any work is done; an invalid row
refuses only its own study.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from spine_etl.errors import MaskAmbiguous, SourceNotFound, SpineError, StudyNameInvalid, TableInvalid
from spine_etl.source.external_mask import ExternalMask
from spine_etl.source.files import File, Folder, FolderOrAddress, open_source
from spine_etl.source.tables import Labels, read_boxes, read_labels
from spine_etl.volume import FractureBox

_IMAGES, _MASKS = "train_images", "segmentations"
_LABEL_TABLE, _BOX_TABLE = "train.csv", "train_bounding_boxes.csv"
_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
_FileOrFolder = TypeVar("_FileOrFolder", File, Folder)


@dataclass(frozen=True)
class Study:
    """One study of a source.

    ``labels`` maps each level and ``patient_overall`` to 0 or 1; None if the table does not list the study.
    ``mask`` is the study's own segmentation; ``external_mask`` the one of `spine_etl.source.masks`, if it has
    none. ``problem`` is the error in its table rows or its name; a study with a problem is refused with it.
    """

    uid: str
    folder: Folder
    mask: File | None = None
    labels: Labels | None = None
    boxes: tuple[FractureBox, ...] = ()
    problem: SpineError | None = None
    external_mask: ExternalMask | None = None

    @property
    def table_content(self) -> str:
        """The study's labels and boxes, and the problem with them, as text for the source digest."""
        content = repr((sorted((self.labels or {}).items()), self.boxes))
        return f"{content} {self.problem.reason}" if self.problem else content


def discover_studies(source: FolderOrAddress, levels: Sequence[str]) -> list[Study]:
    """The studies of a source, sorted by UID.

    Parameters
    ----------
    source
        A folder, a ``.zip``, ``s3://bucket/prefix``, or the result of `open_source`. It has the layout
        itself, or contains exactly one folder, which has it.
    levels
        Columns of the label table, besides ``patient_overall``.

    Raises
    ------
    SourceNotFound
        If there is no ``train_images`` folder with at least one study.
    ArchiveInvalid, SourceUnreachable
        If the archive is damaged or unsafe, or S3 does not answer.
    TableInvalid
        If a table lacks a column or is not CSV text.
    """
    root = _find_root(source)
    folders = sorted(_by_name(_by_name(root.folders())[_IMAGES].folders()).items())
    if not folders:
        raise SourceNotFound(f"the folder {_IMAGES} of {root.name} contains no studies.")
    tables = _by_name(root.files())
    labels, boxes = read_labels(tables.get(_LABEL_TABLE), levels), read_boxes(tables.get(_BOX_TABLE))
    mask_folder = _by_name(root.folders()).get(_MASKS)
    masks = _by_name(mask_folder.files()) if mask_folder else {}
    return [_study(folder, masks, labels, boxes) for _, folder in folders]


def studies_without_images(source: FolderOrAddress, levels: Sequence[str]) -> list[str]:
    """UIDs in the label table without a folder in ``train_images``; raises as `discover_studies` does."""
    root = _find_root(source)
    labels = read_labels(_by_name(root.files()).get(_LABEL_TABLE), levels)
    return sorted(labels.keys() - _by_name(_by_name(root.folders())[_IMAGES].folders()).keys())


def tables_modified_at(source: FolderOrAddress) -> float | None:
    """Time of the tables' last change, in seconds since the epoch; None if unknown or there are no tables."""
    files = _by_name(_find_root(source).files())
    times = [files[name].modified_at() for name in (_LABEL_TABLE, _BOX_TABLE) if name in files]
    return max((time for time in times if time is not None), default=None)


def _find_root(source: FolderOrAddress) -> Folder:
    """The folder with the layout: the source itself, or the only folder in it."""
    root = open_source(source)
    subfolders = _by_name(root.folders())
    if _IMAGES not in subfolders and len(subfolders) == 1:
        (root,) = subfolders.values()
        subfolders = _by_name(root.folders())
    if _IMAGES not in subfolders:
        raise SourceNotFound(f"there is no folder {_IMAGES} in {root.name}.")
    return root


def _by_name(entries: Iterable[_FileOrFolder]) -> dict[str, _FileOrFolder]:
    """Files or folders by name, without hidden ones."""
    return {entry.name: entry for entry in entries if not entry.name.startswith(".")}


def _study(
    folder: Folder,
    masks: Mapping[str, File],
    labels: Mapping[str, Labels | TableInvalid],
    boxes: Mapping[str, list[FractureBox] | TableInvalid],
) -> Study:
    uid = folder.name
    if not _UID.fullmatch(uid):
        # The name may identify a patient, so it must not appear in paths of the store or in messages.
        safe_uid = f"unnamed-{hashlib.sha256(uid.encode()).hexdigest()[:12]}"
        reason = f"the name of a folder in {_IMAGES}, {len(uid)} characters long, is not a UID."
        return Study(safe_uid, folder, problem=StudyNameInvalid(reason, study=safe_uid))
    mask = masks.get(f"{uid}.nii") or masks.get(f"{uid}.nii.gz")
    if f"{uid}.nii" in masks and f"{uid}.nii.gz" in masks:
        ambiguous = MaskAmbiguous(
            "there are two segmentations, .nii and .nii.gz.", study=uid, action="Remove the wrong one."
        )
        return Study(uid, folder, mask, problem=ambiguous)
    study_labels, study_boxes = labels.get(uid), boxes.get(uid, [])
    if isinstance(study_labels, TableInvalid):
        return Study(uid, folder, mask, problem=study_labels)
    if isinstance(study_boxes, TableInvalid):
        return Study(uid, folder, mask, problem=study_boxes)
    return Study(uid, folder, mask, study_labels, tuple(study_boxes))
