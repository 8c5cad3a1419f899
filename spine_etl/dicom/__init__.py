"""DICOM series to volumes in Hounsfield units."""

from spine_etl.dicom.header import Header, read_header
from spine_etl.dicom.series import read_series, series_files

__all__ = ["Header", "read_header", "read_series", "series_files"]
