"""The segmentation of one study from elsewhere, as files that have not been read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from spine_etl.source.digest import combine_digests, file_digest
from spine_etl.source.files import File
from spine_etl.source.label_names import LabelNames


@dataclass(frozen=True)
class ExternalMask:
    """The segmentation of one study from elsewhere.

    ``files`` are one multi-label NIfTI file (``form`` "labels"), one DICOM segmentation ("dicom"), or a NIfTI
    file for each of ``levels`` ("classes"). ``other_classes`` are the names of further class files.
    """

    form: Literal["labels", "classes", "dicom"]
    files: tuple[File, ...]
    names: LabelNames
    levels: tuple[str, ...] = ()
    other_classes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The files as messages name them."""
        return self.files[0].name if len(self.files) == 1 else f"the {len(self.files)} class files"

    def digest(self) -> str:
        """Digest of the files and of the label names, which decide how the files are read."""
        return self.combine(map(file_digest, self.files))

    def combine(self, digests: Iterable[str]) -> str:
        """`digest`, from the digests of the files in their order."""
        parts = [(f"{level}", digest) for level, digest in zip(self.levels or ("",), digests, strict=True)]
        others = [(f"class {name}", "") for name in self.other_classes]
        return combine_digests([("form", self.form), ("names", self.names.digest), *parts, *others])

    def modified_at(self) -> float | None:
        """Time of the newest file's last change, in seconds since the epoch; None if unknown."""
        times = [file.modified_at() for file in self.files]
        return max((time for time in times if time is not None), default=None)
