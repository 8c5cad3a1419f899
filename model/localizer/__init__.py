"""The localizer: finds C1 to C7 in the overviews of studies without a segmentation."""
