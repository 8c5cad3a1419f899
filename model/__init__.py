"""Training, prediction and explanation on committed stores; knows no DICOM, Prefect or Dask."""
