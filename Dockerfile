FROM python:3.12-slim
WORKDIR /recall
COPY pyproject.toml README.md ./
COPY app app
COPY es_mappings es_mappings
COPY scripts scripts
RUN pip install --no-cache-dir . && useradd --system recall
USER recall
ENV RECALL_HOST=0.0.0.0
EXPOSE 8080
CMD ["python", "-m", "app"]
