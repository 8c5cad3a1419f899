# One image for the build, the workers and the trainer.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false

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

RUN useradd --create-home --uid 10001 spine \
    && mkdir -p /data/source /data/store /data/runs \
    && chown spine /data/store /data/runs
USER spine
# numba's compiled kernels and Prefect's local database belong to the user, not to the read-only package.
ENV NUMBA_CACHE_DIR=/home/spine/.cache/numba PREFECT_HOME=/home/spine/.prefect
CMD ["python", "-m", "flows.build_dataset", "--help"]
