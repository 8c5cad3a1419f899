"""Refusals: everything this package will not do, as one tree of exceptions.

    SpineError
    |-- SourceError               what lies in the source folder
    |   |-- SourceNotFound          SOURCE_NOT_FOUND           (FileNotFoundError)
    |   |-- TableInvalid            TABLE_INVALID              (ValueError)
    |   |-- StudyNameInvalid        STUDY_NAME_INVALID         (ValueError)
    |   |-- ArchiveInvalid          ARCHIVE_INVALID            (ValueError)
    |   |-- SourceChanged           SOURCE_CHANGED             (OSError)
    |   |-- SourceUnreachable       SOURCE_UNREACHABLE         (ConnectionError)
    |   `-- SourceNotEmpty          SOURCE_NOT_EMPTY           (FileExistsError)
    |-- DicomError                what a DICOM series says
    |   |-- NoSlices                NO_SLICES                  (FileNotFoundError)
    |   |-- DicomUnreadable         DICOM_UNREADABLE           (ValueError)
    |   |-- HeaderInvalid           HEADER_INVALID             (ValueError)
    |   |-- TransferSyntaxUnsupported  TRANSFER_SYNTAX_UNSUPPORTED  (ValueError)
    |   |-- DecodeFailed            DECODE_FAILED              (ValueError)
    |   |-- MixedSeries             MIXED_SERIES               (ValueError)
    |   |-- DuplicatePosition       DUPLICATE_POSITION         (ValueError)
    |   |-- SliceGap                SLICE_GAP                  (ValueError)
    |   `-- GeometryInvalid         GEOMETRY_INVALID           (ValueError)
    |-- MaskError                 what a segmentation says
    |   |-- MaskUnreadable          MASK_UNREADABLE            (ValueError)
    |   |-- LabelUnknown            LABEL_UNKNOWN              (ValueError)
    |   `-- MaskOutsideVolume       MASK_OUTSIDE_VOLUME        (ValueError)
    |-- RecipeInvalid               RECIPE_INVALID             (ValueError)
    |-- StoreError                what a store says
    |   |-- StoreNotFound           STORE_NOT_FOUND            (FileNotFoundError)
    |   |-- StoreSchemaUnsupported  STORE_SCHEMA_UNSUPPORTED   (ValueError)
    |   |-- StoreFingerprintDiffers STORE_FINGERPRINT_DIFFERS  (ValueError)
    |   |-- StoreNotCommitted       STORE_NOT_COMMITTED        (LookupError)
    |   |-- StudyNotInStore         STUDY_NOT_IN_STORE         (KeyError)
    |   |-- ChunkMissing            CHUNK_MISSING              (FileNotFoundError)
    |   |-- ChunkCorrupt            CHUNK_CORRUPT              (ValueError)
    |   |-- StoreWriteFailed        STORE_WRITE_FAILED         (OSError)
    |   |-- StoreForbidden          STORE_FORBIDDEN            (PermissionError)
    |   |-- StoreUnreachable        STORE_UNREACHABLE          (ConnectionError)
    |   `-- CommitConflict          COMMIT_CONFLICT            (RuntimeError)
    |-- RunError                  what befell a run, or a study while it was worked on
    |   |-- WorkerLost              WORKER_LOST                (RuntimeError)
    |   |-- SchedulerLost           SCHEDULER_LOST             (ConnectionError)
    |   `-- Unexpected              UNEXPECTED                 (RuntimeError)
    `-- TrainingError             what stops a training or a prediction
        |-- FoldInvalid             FOLD_INVALID               (ValueError)
        |-- LossNotFinite           LOSS_NOT_FINITE            (ArithmeticError)
        |-- CheckpointInvalid       CHECKPOINT_INVALID         (ValueError)
        |-- DeviceUnavailable       DEVICE_UNAVAILABLE         (RuntimeError)
        |-- DeviceMemoryFull        DEVICE_MEMORY_FULL         (MemoryError)
        `-- OutputUnwritable        OUTPUT_UNWRITABLE          (OSError)

Each carries ``code`` (stable, for machines), ``reason`` (one sentence), ``action`` (what to do about it)
and, where there is one, ``study``. Reasons name DICOM attributes and numbers of geometry; they never hold
a patient's name, birth date or any free text from a header.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar


class SpineError(Exception):
    """A refusal.

    Parameters
    ----------
    reason
        One sentence: what was found and where.
    study
        StudyInstanceUID the refusal belongs to, where known.
    action
        What the reader can do; each class has a default.
    """

    code: ClassVar[str] = "SPINE_ERROR"
    default_action: ClassVar[str] = "Report this with the command that led to it."

    def __init__(self, reason: str, *, study: str | None = None, action: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.study = study
        self.action = action or self.default_action

    def __str__(self) -> str:
        study = f" study {self.study}:" if self.study else ""
        return f"[{self.code}]{study} {self.reason} {self.action}"

    def __reduce__(self) -> tuple[Callable[..., SpineError], tuple[object, ...]]:
        # Exceptions cross process borders by pickle, which knows nothing of keyword arguments.
        return _rebuild, (type(self), self.reason, self.study, self.action)

    def as_dict(self) -> dict[str, str]:
        """The refusal as it is stored and printed: code, reason, action."""
        return {"code": self.code, "reason": self.reason, "action": self.action}


def _rebuild(kind: type[SpineError], reason: str, study: str | None, action: str) -> SpineError:
    return kind(reason, study=study, action=action)


class SourceError(SpineError):
    """What lies in the source folder cannot be used."""


class SourceNotFound(SourceError, FileNotFoundError):
    code = "SOURCE_NOT_FOUND"
    default_action = "Check the path; the README draws the layout that is expected."


class TableInvalid(SourceError, ValueError):
    code = "TABLE_INVALID"
    default_action = "Correct the table, or take it away to build without it."


class StudyNameInvalid(SourceError, ValueError):
    code = "STUDY_NAME_INVALID"
    default_action = (
        "Rename the folder to its StudyInstanceUID (digits and dots, at most 64);"
        " ls train_images | grep -vxE '[0-9A-Za-z][0-9A-Za-z._-]{0,63}' finds it."
    )


class ArchiveInvalid(SourceError, ValueError):
    code = "ARCHIVE_INVALID"
    default_action = "Download the archive again, or unpack it with a tool you trust and name the folder."


class SourceChanged(SourceError, OSError):
    code = "SOURCE_CHANGED"
    default_action = "Wait until the files are copied completely, then run again."


class SourceUnreachable(SourceError, ConnectionError):
    code = "SOURCE_UNREACHABLE"
    default_action = "Check AWS_ENDPOINT_URL, AWS_REGION, the credentials and the network, then run again."


class SourceNotEmpty(SourceError, FileExistsError):
    code = "SOURCE_NOT_EMPTY"
    default_action = "Name a new or empty folder; nothing is overwritten."


class DicomError(SpineError):
    """A DICOM series that cannot be read as one volume."""


class NoSlices(DicomError, FileNotFoundError):
    code = "NO_SLICES"
    default_action = "Put the study's DICOM files into its folder, or take the folder away."


class DicomUnreadable(DicomError, ValueError):
    code = "DICOM_UNREADABLE"
    default_action = "Copy the file again from its source; it is cut short or is no DICOM file."


class HeaderInvalid(DicomError, ValueError):
    code = "HEADER_INVALID"
    default_action = "Export the series again with its geometry and pixel attributes."


class TransferSyntaxUnsupported(DicomError, ValueError):
    code = "TRANSFER_SYNTAX_UNSUPPORTED"
    default_action = "Convert the file to Explicit VR Little Endian (for example with dcmtk's dcmdjpeg)."


class DecodeFailed(DicomError, ValueError):
    code = "DECODE_FAILED"
    default_action = "Copy the file again from its source; its pixel data is damaged."


class MixedSeries(DicomError, ValueError):
    code = "MIXED_SERIES"
    default_action = "Leave one series in the folder."


class DuplicatePosition(DicomError, ValueError):
    code = "DUPLICATE_POSITION"
    default_action = "Leave one slice for each position in the folder."


class SliceGap(DicomError, ValueError):
    code = "SLICE_GAP"
    default_action = "Add the missing slices, or take the stray ones away."


class GeometryInvalid(DicomError, ValueError):
    code = "GEOMETRY_INVALID"
    default_action = "Export the series again; its positions and orientations do not form a volume."


class MaskError(SpineError):
    """A segmentation that cannot be used with its CT."""


class MaskUnreadable(MaskError, ValueError):
    code = "MASK_UNREADABLE"
    default_action = "Copy the file again from its source; it is cut short or is no 3D NIfTI label map."


class LabelUnknown(MaskError, ValueError):
    code = "LABEL_UNKNOWN"
    default_action = "Name the label in the recipe, under levels or other_labels."


class MaskOutsideVolume(MaskError, ValueError):
    code = "MASK_OUTSIDE_VOLUME"
    default_action = "Check that the segmentation belongs to this study and that its affine is right."


class RecipeInvalid(SpineError, ValueError):
    code = "RECIPE_INVALID"
    default_action = "Correct the recipe; spine_etl/recipes holds examples."


class StoreError(SpineError):
    """A store that cannot be read or written."""


class StoreNotFound(StoreError, FileNotFoundError):
    code = "STORE_NOT_FOUND"
    default_action = "Check the path, or build it: python -m flows.build_dataset --source DIR --store STORE."


class StoreSchemaUnsupported(StoreError, ValueError):
    code = "STORE_SCHEMA_UNSUPPORTED"
    default_action = "Build the store again with this release, or read it with the release that wrote it."


class StoreFingerprintDiffers(StoreError, ValueError):
    code = "STORE_FINGERPRINT_DIFFERS"
    default_action = "Name another --store for this recipe: one store holds one recipe."


class StoreNotCommitted(StoreError, LookupError):
    code = "STORE_NOT_COMMITTED"
    default_action = "Run the build again; it resumes and commits."


class StudyNotInStore(StoreError, KeyError):
    code = "STUDY_NOT_IN_STORE"
    default_action = "List the version's studies with Store.study_uids."


class ChunkMissing(StoreError, FileNotFoundError):
    code = "CHUNK_MISSING"
    default_action = "Restore the object from a copy, or build into a new store; check lists them all."


class ChunkCorrupt(StoreError, ValueError):
    code = "CHUNK_CORRUPT"
    default_action = "Restore the object from a copy, or build into a new store; check lists them all."


class StoreWriteFailed(StoreError, OSError):
    code = "STORE_WRITE_FAILED"
    default_action = "Make room or mend the permissions, then run again; nothing committed was touched."


class StoreForbidden(StoreError, PermissionError):
    code = "STORE_FORBIDDEN"
    default_action = "Check the credentials (AWS_*): reading needs s3:GetObject, building s3:PutObject too."


class StoreUnreachable(StoreError, ConnectionError):
    code = "STORE_UNREACHABLE"
    default_action = "Check AWS_ENDPOINT_URL, AWS_REGION and the network, then run again; it resumes."


class CommitConflict(StoreError, RuntimeError):
    code = "COMMIT_CONFLICT"
    default_action = "Run again: the other build's version is kept and this one is added to it."


class RunError(SpineError):
    """What befell a run, or a study while it was worked on; tried again by the next run."""


class WorkerLost(RunError, RuntimeError):
    code = "WORKER_LOST"
    default_action = "Give the workers more memory, then run again; the study is tried anew."


class SchedulerLost(RunError, ConnectionError):
    code = "SCHEDULER_LOST"
    default_action = "Start the scheduler and its workers, then run again; what is stored is kept."


class Unexpected(RunError, RuntimeError):
    code = "UNEXPECTED"
    default_action = "Run again; if it comes back, report it with the study's header (inspect prints it)."


class TrainingError(SpineError):
    """A training or a prediction that cannot go on."""


class FoldInvalid(TrainingError, ValueError):
    code = "FOLD_INVALID"
    default_action = "Name another --fold, or build the store with more labelled studies."


class LossNotFinite(TrainingError, ArithmeticError):
    code = "LOSS_NOT_FINITE"
    default_action = "Lower the learning rate in a recipe of your own, and train it into another --out."


class CheckpointInvalid(TrainingError, ValueError):
    code = "CHECKPOINT_INVALID"
    default_action = "Name a checkpoint that this recipe and this store version made."


class DeviceUnavailable(TrainingError, RuntimeError):
    code = "DEVICE_UNAVAILABLE"
    default_action = "Name --device cpu, or auto."


class DeviceMemoryFull(TrainingError, MemoryError):
    code = "DEVICE_MEMORY_FULL"
    default_action = "Lower a training's --batch-size, end what else is on the device, or name --device cpu."


class OutputUnwritable(TrainingError, OSError):
    code = "OUTPUT_UNWRITABLE"
    default_action = "Make room or mend the permissions, then run again; a training with --resume."
