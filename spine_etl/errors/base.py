"""The base class of all errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar


class SpineError(Exception):
    """Base class of all errors; never raised itself.

    Parameters
    ----------
    reason
        One sentence: what was found and where.
    study
        StudyInstanceUID of the study concerned, if known.
    action
        The remedy; each class has a default.
    """

    code: ClassVar[str] = "SPINE_ERROR"
    default_action: ClassVar[str] = "Report this, with the command that led to it."

    def __init__(self, reason: str, *, study: str | None = None, action: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.study = study
        self.action = action or self.default_action

    def __str__(self) -> str:
        study = f" study {self.study}:" if self.study else ""
        return f"[{self.code}]{study} {self.reason} {self.action}"

    def __reduce__(self) -> tuple[Callable[..., SpineError], tuple[object, ...]]:
        # Pickle rebuilds exceptions from positional arguments alone; ours have keyword arguments too.
        return _rebuild, (type(self), self.reason, self.study, self.action)

    def as_dict(self) -> dict[str, str]:
        """The error as it is stored and printed: code, reason, action."""
        return {"code": self.code, "reason": self.reason, "action": self.action}


def _rebuild(kind: type[SpineError], reason: str, study: str | None, action: str) -> SpineError:
    return kind(reason, study=study, action=action)
