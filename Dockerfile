# One image for all services of this project: Prefect server and worker, Dask, trainer.
FROM python:3.11.14-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT=false

# python-gdcm and MONAI's plots need these two libraries.
RUN apt-get update \
    && apt-get install --no-install-recommends --yes libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/spine-etl
# Dependencies first: a change of the code then reuses their layers.
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
RUN pip install --constraint constraints.txt torch==2.13.0
COPY spine_etl ./spine_etl
COPY flows ./flows
COPY model ./model
RUN pip install --constraint constraints.txt '.[build,model]'
COPY prefect.yaml ./

# Folders that the user writes to: numba's compiled kernels, Prefect's home, and the trainer's volumes.
RUN useradd --create-home --uid 10001 spine \
    && mkdir -p /data/source /data/store /data/runs /data/cache /home/spine/.prefect \
    && chown spine /data/store /data/runs /data/cache /home/spine/.prefect
USER spine
ENV NUMBA_CACHE_DIR=/home/spine/.cache/numba PREFECT_HOME=/home/spine/.prefect
# Compile the kernels once. On another type of processor, the first study of each container compiles them again.
RUN python -c "from spine_etl.pipeline import warm_up; warm_up()"
CMD ["python", "-m", "flows.build_dataset", "--help"]
