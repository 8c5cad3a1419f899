"""Commands and Prefect flows that build a dataset from all studies of a source."""
