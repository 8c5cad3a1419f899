"""Errors of a store."""

from __future__ import annotations

from spine_etl.errors.base import SpineError


class StoreError(SpineError):
    """A store cannot be read or written."""


class StoreNotFound(StoreError, FileNotFoundError):
    """There is no store at this path or URL."""

    code = "STORE_NOT_FOUND"
    default_action = "Check the path, or build it: python -m flows.build_dataset --source DIR --store STORE."


class StoreSchemaUnsupported(StoreError, ValueError):
    """The store was written with a different version of the format."""

    code = "STORE_SCHEMA_UNSUPPORTED"
    default_action = "Build the store again with this release, or read it with the release that wrote it."


class StoreFingerprintDiffers(StoreError, ValueError):
    """The store was built with another recipe, or by a release that computes different numbers."""

    code = "STORE_FINGERPRINT_DIFFERS"
    default_action = "Choose another --store for this recipe: a store holds the dataset of one recipe."


class StoreNotCommitted(StoreError, LookupError):
    """The store has no committed version, or not the one asked for."""

    code = "STORE_NOT_COMMITTED"
    default_action = "Run the build again; it resumes and commits."


class StudyNotInStore(StoreError, KeyError):
    """This version of the store does not contain the study."""

    code = "STUDY_NOT_IN_STORE"
    default_action = "List the version's studies with Store.study_uids."


class ChunkMissing(StoreError, FileNotFoundError):
    """An object of a committed version is missing."""

    code = "CHUNK_MISSING"
    default_action = (
        "Restore the object from a copy, or build into a new store; check lists all damaged objects."
    )


class ChunkCorrupt(StoreError, ValueError):
    """An object of a committed version differs from what was committed."""

    code = "CHUNK_CORRUPT"
    default_action = (
        "Restore the object from a copy, or build into a new store; check lists all damaged objects."
    )


class StoreWriteFailed(StoreError, OSError):
    """The file system refused a write, most often because the disk is full or read-only."""

    code = "STORE_WRITE_FAILED"
    default_action = "Free some space or fix the permissions, then run again; committed data are untouched."


class StoreForbidden(StoreError, PermissionError):
    """The credentials or file permissions do not allow the request."""

    code = "STORE_FORBIDDEN"
    default_action = "Check the credentials (AWS_*): reading needs s3:GetObject, building also s3:PutObject."


class StoreUnreachable(StoreError, ConnectionError):
    """The store's server or disk did not answer after all retries."""

    code = "STORE_UNREACHABLE"
    default_action = "Check AWS_ENDPOINT_URL, AWS_REGION and the network, then run again; it resumes."


class CommitConflict(StoreError, RuntimeError):
    """Other builds committed to the same store faster, twenty times in a row."""

    code = "COMMIT_CONFLICT"
    default_action = "Run again: the other build's version is kept, and this one is added to it."
