# One image for all that is the project's own: Prefect's server and worker, Dask, trainer.
FROM python:3.11.14-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT=false

# python-gdcm and MONAI's drawing need these two; nothing else of a desktop is installed.
RUN apt-get update \
    && apt-get install --no-install-recommends --yes libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/spine-etl
# Dependencies first, so that a change of the code does not install them anew.
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
RUN pip install --constraint constraints.txt torch==2.13.0
COPY spine_etl ./spine_etl
COPY flows ./flows
COPY model ./model
RUN pip install --constraint constraints.txt '.[build,model]'
COPY prefect.yaml ./

# What the user writes: numba's compiled kernels, Prefect's home, and the volumes of the trainer.
RUN useradd --create-home --uid 10001 spine \
    && mkdir -p /data/source /data/store /data/runs /data/cache /home/spine/.prefect \
    && chown spine /data/store /data/runs /data/cache /home/spine/.prefect
USER spine
ENV NUMBA_CACHE_DIR=/home/spine/.cache/numba PREFECT_HOME=/home/spine/.prefect
# Compiled once, here. A machine with another kind of processor compiles again, in each container's first study.
RUN python -c "from spine_etl import crops, resample; crops.warm_up(); resample.warm_up()"
CMD ["python", "-m", "flows.build_dataset", "--help"]
