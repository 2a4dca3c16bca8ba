# With a digest (python:3.12-slim@sha256:…) the image is the same at every build.
ARG PYTHON_IMAGE=python:3.12-slim
FROM ${PYTHON_IMAGE}
WORKDIR /recall
# scripts/lock writes this file. pip refuses whatever has another hash.
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes --only-binary :all: --requirement requirements.lock
COPY pyproject.toml README.md ./
COPY app app
COPY es_mappings es_mappings
COPY scripts scripts
# A new volume takes the owner of the folder that it covers.
RUN pip install --no-cache-dir --no-deps --no-build-isolation . \
    && useradd --system recall \
    && install --directory --owner recall --group recall --mode 0750 /var/log/recall
USER recall
ENV RECALL_HOST=0.0.0.0
EXPOSE 8080
CMD ["python", "-m", "app"]
