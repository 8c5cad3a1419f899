"""What a DICOM segmentation refers to, from the first part of its header."""

from __future__ import annotations

from collections.abc import Iterator

from spine_etl.errors import SourceError
from spine_etl.source.files import File

_SEGMENTATION_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation Storage
    "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation Storage
)
_TAGS = (
    "SOPClassUID",
    "StudyInstanceUID",
    "ReferencedSeriesSequence",
    "StudiesContainingOtherReferencedInstancesSequence",
)
_FUNCTIONAL_GROUPS = 0x5200_0000
"""The tags from here on describe each frame: slow to parse, and not needed."""


def segmentation_uids(file: File) -> set[str] | None:
    """UIDs of the study, and of the series and studies referred to; None if it is not a DICOM segmentation.

    Raises
    ------
    SourceChanged, SourceUnreachable
        If the file changed since it was listed, or its bucket cannot be reached.
    """
    import warnings

    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_partial
    from pydicom.tag import Tag

    try:
        with file.open() as content, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = read_partial(
                content,  # all sources can seek
                stop_when=lambda tag, vr, length: tag >= _FUNCTIONAL_GROUPS,
                specific_tags=[Tag(name) for name in _TAGS],
            )
            if header.get("SOPClassUID") not in _SEGMENTATION_CLASSES:
                return None
            return {str(uid) for uid in _uids(header) if uid}
    except SourceError:
        raise
    except (InvalidDicomError, OSError, ValueError, KeyError, AttributeError, TypeError, NotImplementedError):
        return None


def _uids(header: object) -> Iterator[object]:
    yield getattr(header, "StudyInstanceUID", None)
    for series in getattr(header, "ReferencedSeriesSequence", None) or ():
        yield getattr(series, "SeriesInstanceUID", None)
    for study in getattr(header, "StudiesContainingOtherReferencedInstancesSequence", None) or ():
        yield getattr(study, "StudyInstanceUID", None)
