"""Errors of a source: its folder, archive or bucket, and its tables."""

from __future__ import annotations

from spine_etl.errors.base import SpineError


class SourceError(SpineError):
    """The source cannot be used."""


class SourceNotFound(SourceError, FileNotFoundError):
    """The source does not exist, cannot be read, or does not have the expected layout."""

    code = "SOURCE_NOT_FOUND"
    default_action = "Check the path; the README shows the expected layout."


class TableInvalid(SourceError, ValueError):
    """A table of labels, boxes or folds is not CSV, lacks a column, or has a row that contradicts another."""

    code = "TABLE_INVALID"
    default_action = "Correct the table, or remove it to build without it."


class StudyNameInvalid(SourceError, ValueError):
    """The name of a study folder is not a UID. The name is not repeated here: it may identify a patient."""

    code = "STUDY_NAME_INVALID"
    default_action = (
        "Rename the folder to its StudyInstanceUID (digits and dots, at most 64); it is printed by"
        " ls train_images | grep -vxE '[0-9A-Za-z][0-9A-Za-z._-]{0,63}'."
    )


class ArchiveInvalid(SourceError, ValueError):
    """The zip archive is damaged, encrypted, or contains unsafe or duplicate paths."""

    code = "ARCHIVE_INVALID"
    default_action = "Download the archive again, or unpack it with a tool you trust and pass the folder."


class SourceChanged(SourceError, OSError):
    """A file of the source changed after it was listed or while it was read."""

    code = "SOURCE_CHANGED"
    default_action = "Wait until all files are copied, then run again."


class SourceUnreachable(SourceError, ConnectionError):
    """The S3 server of the source refused a request or did not answer after all retries."""

    code = "SOURCE_UNREACHABLE"
    default_action = "Check AWS_ENDPOINT_URL, AWS_REGION, the credentials and the network, then run again."


class SourceNotEmpty(SourceError, FileExistsError):
    """The output folder for synthetic studies is not empty."""

    code = "SOURCE_NOT_EMPTY"
    default_action = "Choose a new or empty folder; existing files are never overwritten."
