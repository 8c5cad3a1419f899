"""The steps of a build: plan, process the studies on a Dask cluster, commit, publish a page in Prefect."""
