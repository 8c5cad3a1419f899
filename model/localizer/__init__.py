"""Finding C1 to C7 in overviews of studies without a segmentation."""
