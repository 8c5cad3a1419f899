"""Seeing a dataset: what files and stores say of themselves, and pictures of studies and crops."""
