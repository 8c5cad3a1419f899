"""A folder of segmentations from elsewhere: which of its files belong to which study.

A study is named by its UID, in one of these ways; ``.nii`` and ``.nii.gz`` in any case, in any subfolder:

* ``<uid>.nii.gz``: one multi-label file;
* ``<uid>_seg.nii.gz``: the same, if what follows the UID is made of common words (`_OTHER_WORDS`) and at
  least one that means a segmentation (`_MASK_WORDS`);
* ``<uid>/segmentation.nii.gz``: such words, in a folder that is named like one of these files;
* ``<uid>/vertebrae_C1.nii.gz`` or ``<uid>/segmentations/vertebrae_C1.nii.gz``: a binary file for each class;
* a DICOM segmentation with any name, whose header has the UID of the study or of its series.

What belongs to no study is returned with the reason, and a study with two segmentations is refused. Hidden
files are ignored.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from spine_etl.errors import MaskAmbiguous
from spine_etl.source.dicom_index import segmentation_uids
from spine_etl.source.external_mask import ExternalMask
from spine_etl.source.files import File, Folder
from spine_etl.source.label_names import LabelNames
from spine_etl.source.layout import Study

_MASK_WORDS = frozenset(
    ("seg", "segs", "segmentation", "segmentations", "mask", "masks", "msk", "label", "labels", "labelmap")
)
_OTHER_WORDS = frozenset(
    (
        *("ct", "cta", "orient", "dir", "ax", "axial", "sag", "sagittal", "cor", "coronal", "iso"),
        *("vert", "vertebra", "vertebrae", "spine", "cspine", "total", "totalseg", "totalsegmentator", "ml"),
        *("pred", "prediction", "predicted", "auto", "automatic", "manual", "corrected", "final"),
    )
)
_NIFTI = re.compile(r"(.*)\.nii(?:\.gz)?", re.IGNORECASE | re.DOTALL)
_MAX_DEPTH = 8  # folders below the folder of masks
_MAX_LISTED = 20  # files of a folder that are named one by one, if they are no masks

NOT_A_MASK = "not a segmentation"
NOT_NAMED = "not named for a study of the source: its UID, or its UID and _seg"
NO_STUDY = "refers to no study of the source"
OWN_MASK = "its study has a segmentation of its own"
NO_LEVEL = "no file is named for a segmentation or a vertebra"
SEVERAL_STUDIES = "refers to several studies"
EMPTY = "an empty folder"
TOO_DEEP = f"has folders below the {_MAX_DEPTH}th level"
TWO_STUDIES = "named for one study and in the folder of another"


class UnusedMask(NamedTuple):
    """A file or folder of the masks, by its path in them, that no study uses, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True)
class MaskAssignment:
    """The studies, with their external masks, and what was not used."""

    studies: list[Study]
    unused: list[UnusedMask] = field(default_factory=list)


def assign_masks(studies: Sequence[Study], folder: Folder, names: LabelNames) -> MaskAssignment:
    """Give each study without a segmentation of its own the one of the folder that belongs to it.

    Raises
    ------
    SourceNotFound
        If the folder cannot be read.
    SourceUnreachable
        If its bucket cannot be reached.
    """
    findings = _find_masks(folder, names, frozenset(study.uid for study in studies))
    found, unused = findings.found, findings.unused
    assigned = []
    for study in studies:
        masks = found.get(study.uid, [])
        if study.mask and masks:
            unused += [UnusedMask(mask.path, OWN_MASK) for mask in masks]
        elif len(masks) > 1 and not study.problem:
            paths = ", ".join(sorted(mask.path for mask in masks))
            problem = MaskAmbiguous(f"{len(masks)} segmentations belong to it: {paths}.", study=study.uid)
            study = replace(study, problem=problem)
        elif len(masks) == 1:
            study = replace(study, external_mask=masks[0].mask)
        assigned.append(study)
    return MaskAssignment(assigned, sorted(unused))


class _FoundMask(NamedTuple):
    path: str
    mask: ExternalMask


class _Entry(NamedTuple):
    """A file and the names of the folders above it, below the folder of masks.

    ``stem`` is its name without .nii or .nii.gz; None if it has neither.
    """

    folders: tuple[str, ...]
    file: File
    stem: str | None

    @property
    def path(self) -> str:
        return "/".join((*self.folders, self.file.name))


@dataclass
class _Findings:
    """The masks of each study by UID, and what is not one."""

    found: dict[str, list[_FoundMask]] = field(default_factory=lambda: defaultdict(list))
    unused: list[UnusedMask] = field(default_factory=list)

    def sort_nifti(self, entries: Sequence[_Entry], names: LabelNames, uids: frozenset[str]) -> None:
        """NIfTI files: multi-label files by their names, all others in a study's folder as its classes."""
        class_files: dict[tuple[str, tuple[str, ...]], list[_Entry]] = defaultdict(list)
        parents: dict[tuple[str, ...], str | None] = {}
        for entry in entries:
            if entry.folders not in parents:
                parents[entry.folders] = _uid_in_folders(entry.folders, uids)
            uid, parent = _uid_in_name(entry.stem or "", uids), parents[entry.folders]
            if uid and parent and uid != parent:
                self.unused.append(UnusedMask(entry.path, TWO_STUDIES))
            elif uid or (parent and _are_mask_words(_words(entry.stem or ""))):
                mask = ExternalMask("labels", (entry.file,), names)
                self.found[uid or parent or ""].append(_FoundMask(entry.path, mask))
            elif parent:
                class_files[parent, entry.folders].append(entry)
            else:
                self.unused.append(UnusedMask(entry.path, NOT_NAMED))
        for (uid, folders), files in class_files.items():
            class_mask = _class_mask(files, names)
            if class_mask:
                self.found[uid].append(_FoundMask("/".join(folders), class_mask))
            else:
                self.unused.append(UnusedMask("/".join(folders), NO_LEVEL))

    def sort_dicom(
        self, entries: Sequence[_Entry], names: LabelNames, uids: frozenset[str], concurrent_reads: int
    ) -> None:
        """All other files: DICOM segmentations by their headers."""
        no_masks: dict[tuple[str, ...], list[_Entry]] = defaultdict(list)
        with ThreadPoolExecutor(concurrent_reads) as pool:
            references = pool.map(segmentation_uids, [entry.file for entry in entries])
            for entry, candidates in zip(entries, references, strict=True):
                if candidates is None:
                    no_masks[entry.folders].append(entry)
                    continue
                matches = candidates & uids
                if len(matches) == 1:
                    mask = ExternalMask("dicom", (entry.file,), names)
                    self.found[matches.pop()].append(_FoundMask(entry.path, mask))
                else:
                    self.unused.append(UnusedMask(entry.path, SEVERAL_STUDIES if matches else NO_STUDY))
        for folders, files in no_masks.items():
            paths = [entry.path for entry in files]
            if len(files) > _MAX_LISTED:  # the slices of a CT
                paths = ["/".join((*folders, f"({len(files)} files)"))]
            self.unused += [UnusedMask(path, NOT_A_MASK) for path in paths]


def _find_masks(root: Folder, names: LabelNames, uids: frozenset[str]) -> _Findings:
    findings = _Findings()
    entries = list(_list(root, findings.unused))
    findings.sort_nifti([entry for entry in entries if entry.stem is not None], names, uids)
    others = [entry for entry in entries if entry.stem is None]
    findings.sort_dicom(others, names, uids, max(root.concurrent_reads, 1))
    return findings


def _class_mask(entries: Sequence[_Entry], names: LabelNames) -> ExternalMask | None:
    """The class files of a folder, if one of them shows a level that the label names contain."""
    stems = {entry.stem or "": entry.file for entry in entries}
    by_level = [(level, stem) for stem in sorted(stems) if (level := names.level_of(stem))]
    if not by_level:
        return None
    order = list(names.labels)
    by_level.sort(key=lambda pair: order.index(pair[0]))
    shown = {stem for _, stem in by_level}
    return ExternalMask(
        "classes",
        tuple(stems[stem] for _, stem in by_level),
        names,
        tuple(level for level, _ in by_level),
        tuple(sorted(stems.keys() - shown)),
    )


def _list(root: Folder, unused: list[UnusedMask]) -> Iterator[_Entry]:
    """All visible files; folders deeper than the limit, and empty ones, are added to ``unused``."""
    level: list[tuple[tuple[str, ...], Folder]] = [((), root)]
    with ThreadPoolExecutor(max(root.concurrent_reads, 1)) as pool:
        while level:
            contents = pool.map(lambda item: (item[1].files(), item[1].folders()), level)
            below: list[tuple[tuple[str, ...], Folder]] = []
            for (folders, _), (files, subfolders) in zip(level, contents, strict=True):
                visible = [file for file in files if not file.name.startswith(".")]
                inner = [folder for folder in subfolders if not folder.name.startswith(".")]
                yield from (_Entry(folders, file, _stem(file.name)) for file in visible)
                if not visible and not inner:
                    unused.append(UnusedMask("/".join(folders) or root.name, EMPTY))
                if len(folders) == _MAX_DEPTH and inner:
                    unused.append(UnusedMask("/".join(folders), TOO_DEEP))
                    continue
                below += [((*folders, folder.name), folder) for folder in inner]
            level = below


def _stem(name: str) -> str | None:
    match = _NIFTI.fullmatch(name)
    return match[1] if match else None


def _uid_in_folders(folders: Sequence[str], uids: frozenset[str]) -> str | None:
    """The study that the innermost of these folders named for one is named for."""
    matches = (_uid_in_name(folder, uids) for folder in reversed(folders))
    return next((match for match in matches if match), None)


def _uid_in_name(name: str, uids: frozenset[str]) -> str | None:
    """The study that a file (without suffix) or folder is named for."""
    if name in uids:
        return name
    for separator in reversed(list(re.finditer(r"[_\- .]", name))):  # from the longest UID to the shortest
        uid, rest = name[: separator.start()], name[separator.end() :]
        if uid in uids:
            # Other words could be the rest of another study's UID, or name an image.
            return uid if _are_mask_words(_words(rest)) else None
    return None


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[_\- .]+", name.lower()) if word]


def _are_mask_words(words: Sequence[str]) -> bool:
    """True if all words are common ones and at least one means a segmentation."""
    return bool(_MASK_WORDS.intersection(words)) and _MASK_WORDS.union(_OTHER_WORDS).issuperset(words)
