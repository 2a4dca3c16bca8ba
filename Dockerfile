FROM python:3.12-slim
WORKDIR /recall
COPY pyproject.toml README.md ./
COPY app app
COPY es_mappings es_mappings
COPY scripts scripts
# Editable, because the mappings are beside the package, not in it.
RUN pip install --no-cache-dir --editable . && useradd --system recall
USER recall
ENV RECALL_HOST=0.0.0.0
EXPOSE 8080
CMD ["python", "-m", "app"]
