"""Sample an image or labels on a `Grid`."""

from spine_etl.resample.interface import coverage, resample_isotropic, sample_image, sample_labels, warm_up

__all__ = ["coverage", "resample_isotropic", "sample_image", "sample_labels", "warm_up"]
