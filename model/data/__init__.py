"""From a committed store to batches on the device: labels, order, reading, transfer, views, augmentation."""
