"""Raw values of a header, converted to the types of their attributes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from struct import unpack_from

from spine_etl.dicom.scan import TAGS, decode_text
from spine_etl.errors import HeaderInvalid

# PS3.5 6.2, DS; float() would also accept nan, inf and underscores.
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_MAX_NUMBER = 1e6  # far above any length in mm, slope, intercept or window of a CT


class RawValues:
    """Raw values by tag, read by keyword; errors name the attribute but never quote its value."""

    def __init__(self, values: Mapping[int, bytes], name: str, order: str) -> None:
        self._values, self._name, self._order = values, name, order

    def invalid(self, keyword: str, fault: str, *, action: str | None = None) -> HeaderInvalid:
        """The error to raise for an attribute; ``fault`` completes the sentence after its keyword."""
        return HeaderInvalid(f"{self._name}: {keyword} {fault}.", action=action)

    def __contains__(self, keyword: str) -> bool:
        return TAGS[keyword] in self._values

    def optional_texts(self, keyword: str) -> tuple[str, ...]:
        return _split_texts(self._values.get(TAGS[keyword], b""))

    def texts(self, keyword: str) -> tuple[str, ...]:
        texts = self.optional_texts(keyword)
        if not texts:
            raise self.invalid(keyword, "is missing")
        return texts

    def numbers(self, keyword: str, count: int) -> tuple[float, ...]:
        numbers = _parse_decimals(self.texts(keyword))
        if numbers is None or len(numbers) != count:
            raise self.invalid(keyword, f"is not {count} decimal number(s) up to {_MAX_NUMBER:.0f}")
        return numbers

    def optional_numbers(self, keyword: str) -> tuple[float, ...]:
        """For attributes that only describe the image: malformed numbers count as absent."""
        return _parse_decimals(self.optional_texts(keyword)) or ()

    def pair(self, keyword: str) -> tuple[float, float]:
        a, b = self.numbers(keyword, 2)
        return a, b

    def triple(self, keyword: str) -> tuple[float, float, float]:
        a, b, c = self.numbers(keyword, 3)
        return a, b, c

    def six(self, keyword: str) -> tuple[float, float, float, float, float, float]:
        a, b, c, d, e, f = self.numbers(keyword, 6)
        return a, b, c, d, e, f

    def optional_short(self, keyword: str) -> int | None:
        value = self._values.get(TAGS[keyword], b"")
        if len(value) not in (0, 2):
            raise self.invalid(keyword, "is not one 16-bit number")
        return int(unpack_from(f"{self._order}H", value)[0]) if value else None

    def short(self, keyword: str) -> int:
        number = self.optional_short(keyword)
        if number is None:
            raise self.invalid(keyword, "is missing")
        return number


# Cached, since most values are the same in all slices of a series.
@lru_cache(maxsize=256)
def _split_texts(value: bytes) -> tuple[str, ...]:
    text = decode_text(value)
    return tuple(part.strip(" \0") for part in text.split("\\")) if text else ()


@lru_cache(maxsize=256)
def _parse_decimals(texts: tuple[str, ...]) -> tuple[float, ...] | None:
    """The numbers of a DS value; None if one of them is malformed or above `_MAX_NUMBER`."""
    if not all(map(_DECIMAL.fullmatch, texts)):
        return None
    numbers = tuple(map(float, texts))
    return numbers if all(abs(number) <= _MAX_NUMBER for number in numbers) else None
