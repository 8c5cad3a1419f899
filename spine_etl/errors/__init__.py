"""Every error this package raises on purpose, as one tree of exceptions.

    SpineError
    |-- SourceError               the source folder, archive or bucket
    |   |-- SourceNotFound          SOURCE_NOT_FOUND           (FileNotFoundError)
    |   |-- TableInvalid            TABLE_INVALID              (ValueError)
    |   |-- StudyNameInvalid        STUDY_NAME_INVALID         (ValueError)
    |   |-- ArchiveInvalid          ARCHIVE_INVALID            (ValueError)
    |   |-- SourceChanged           SOURCE_CHANGED             (OSError)
    |   |-- SourceUnreachable       SOURCE_UNREACHABLE         (ConnectionError)
    |   `-- SourceNotEmpty          SOURCE_NOT_EMPTY           (FileExistsError)
    |-- DicomError                a DICOM series
    |   |-- NoSlices                NO_SLICES                  (FileNotFoundError)
    |   |-- DicomUnreadable         DICOM_UNREADABLE           (ValueError)
    |   |-- HeaderInvalid           HEADER_INVALID             (ValueError)
    |   |-- TransferSyntaxUnsupported  TRANSFER_SYNTAX_UNSUPPORTED  (ValueError)
    |   |-- DecodeFailed            DECODE_FAILED              (ValueError)
    |   |-- MixedSeries             MIXED_SERIES               (ValueError)
    |   |-- DuplicatePosition       DUPLICATE_POSITION         (ValueError)
    |   |-- SliceGap                SLICE_GAP                  (ValueError)
    |   `-- GeometryInvalid         GEOMETRY_INVALID           (ValueError)
    |-- MaskError                 a segmentation
    |   |-- MaskUnreadable          MASK_UNREADABLE            (ValueError)
    |   |-- LabelUnknown            LABEL_UNKNOWN              (ValueError)
    |   |-- MaskOutsideVolume       MASK_OUTSIDE_VOLUME        (ValueError)
    |   |-- MaskImplausible         MASK_IMPLAUSIBLE           (ValueError)
    |   |-- MaskAmbiguous           MASK_AMBIGUOUS             (ValueError)
    |   |-- ClassesConflict         CLASSES_CONFLICT           (ValueError)
    |   |-- LabelNamesDiffer        LABEL_NAMES_DIFFER         (ValueError)
    |   `-- LabelNamesInvalid       LABEL_NAMES_INVALID        (ValueError)
    |-- RecipeInvalid               RECIPE_INVALID             (ValueError)
    |-- StoreError                a store
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
    |-- RunError                  a failure of the run itself, retried by the next one
    |   |-- WorkerLost              WORKER_LOST                (RuntimeError)
    |   |-- SchedulerLost           SCHEDULER_LOST             (ConnectionError)
    |   `-- Unexpected              UNEXPECTED                 (RuntimeError)
    `-- TrainingError             training and prediction
        |-- FoldInvalid             FOLD_INVALID               (ValueError)
        |-- LossNotFinite           LOSS_NOT_FINITE            (ArithmeticError)
        |-- CheckpointInvalid       CHECKPOINT_INVALID         (ValueError)
        |-- DeviceUnavailable       DEVICE_UNAVAILABLE         (RuntimeError)
        |-- DeviceMemoryFull        DEVICE_MEMORY_FULL         (MemoryError)
        `-- OutputUnwritable        OUTPUT_UNWRITABLE          (OSError)

Each error carries ``code`` (stable, for machines), ``reason`` (one sentence), ``action`` (the remedy) and, if
it concerns a single study, ``study``. Reasons contain DICOM attribute names and geometry, never a patient's
name, birth date or other free text from a header. Each class's docstring is its cause in docs/errors.md.

What does not prevent the use of a study is a `StudyWarning`, which is a value and never raised.
"""

from spine_etl.errors.base import SpineError
from spine_etl.errors.dicom import (
    DecodeFailed,
    DicomError,
    DicomUnreadable,
    DuplicatePosition,
    GeometryInvalid,
    HeaderInvalid,
    MixedSeries,
    NoSlices,
    SliceGap,
    TransferSyntaxUnsupported,
)
from spine_etl.errors.mask import (
    ClassesConflict,
    LabelNamesDiffer,
    LabelNamesInvalid,
    LabelUnknown,
    MaskAmbiguous,
    MaskError,
    MaskImplausible,
    MaskOutsideVolume,
    MaskUnreadable,
)
from spine_etl.errors.recipe import RecipeInvalid
from spine_etl.errors.run import (
    CheckpointInvalid,
    DeviceMemoryFull,
    DeviceUnavailable,
    FoldInvalid,
    LossNotFinite,
    OutputUnwritable,
    RunError,
    SchedulerLost,
    TrainingError,
    Unexpected,
    WorkerLost,
)
from spine_etl.errors.source import (
    ArchiveInvalid,
    SourceChanged,
    SourceError,
    SourceNotEmpty,
    SourceNotFound,
    SourceUnreachable,
    StudyNameInvalid,
    TableInvalid,
)
from spine_etl.errors.store import (
    ChunkCorrupt,
    ChunkMissing,
    CommitConflict,
    StoreError,
    StoreFingerprintDiffers,
    StoreForbidden,
    StoreNotCommitted,
    StoreNotFound,
    StoreSchemaUnsupported,
    StoreUnreachable,
    StoreWriteFailed,
    StudyNotInStore,
)
from spine_etl.errors.warning import WARNINGS, StudyWarning

__all__ = [
    "WARNINGS",
    "ArchiveInvalid",
    "CheckpointInvalid",
    "ChunkCorrupt",
    "ChunkMissing",
    "ClassesConflict",
    "CommitConflict",
    "DecodeFailed",
    "DeviceMemoryFull",
    "DeviceUnavailable",
    "DicomError",
    "DicomUnreadable",
    "DuplicatePosition",
    "FoldInvalid",
    "GeometryInvalid",
    "HeaderInvalid",
    "LabelNamesDiffer",
    "LabelNamesInvalid",
    "LabelUnknown",
    "LossNotFinite",
    "MaskAmbiguous",
    "MaskError",
    "MaskImplausible",
    "MaskOutsideVolume",
    "MaskUnreadable",
    "MixedSeries",
    "NoSlices",
    "OutputUnwritable",
    "RecipeInvalid",
    "RunError",
    "SchedulerLost",
    "SliceGap",
    "SourceChanged",
    "SourceError",
    "SourceNotEmpty",
    "SourceNotFound",
    "SourceUnreachable",
    "SpineError",
    "StoreError",
    "StoreFingerprintDiffers",
    "StoreForbidden",
    "StoreNotCommitted",
    "StoreNotFound",
    "StoreSchemaUnsupported",
    "StoreUnreachable",
    "StoreWriteFailed",
    "StudyNameInvalid",
    "StudyNotInStore",
    "StudyWarning",
    "TableInvalid",
    "TrainingError",
    "TransferSyntaxUnsupported",
    "Unexpected",
    "WorkerLost",
]
