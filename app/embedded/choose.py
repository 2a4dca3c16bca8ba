"""Which Elasticsearch tests and benchmarks use: a given one, one in a container, or the embedded node."""

import contextlib
import os
import time
from collections.abc import Iterator

from app.embedded.distribution import VERSION
from app.embedded.elasticsearch import Node, answers
from app.embedded.errors import NodeError

IMAGE = f"elasticsearch:{VERSION}"


class NoContainerEngine(RuntimeError):
    """A container was requested, but this machine has no container engine."""


@contextlib.contextmanager
def elasticsearch_for_development() -> Iterator[str]:
    """Yields the URL of an Elasticsearch, and stops it at the end if it was started here.

    `RECALL_ELASTICSEARCH_URL` (its first URL) takes precedence over `RECALL_ELASTICSEARCH=container`. Without both
    it is the embedded node.
    """
    given = os.environ.get("RECALL_ELASTICSEARCH_URL", "").split(",")[0].strip()
    kind = os.environ.get("RECALL_ELASTICSEARCH") or "embedded"
    if given:
        yield given
    elif kind == "container":
        with _container() as url:
            yield url
    elif kind == "embedded":
        with Node.start() as node:
            yield node.url
    else:
        raise ValueError(f"RECALL_ELASTICSEARCH must be 'container' or 'embedded', not {kind!r}")


@contextlib.contextmanager
def _container(timeout: float = 180.0) -> Iterator[str]:
    try:
        from docker.errors import DockerException  # type: ignore[import-untyped]  # noqa: PLC0415
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415  # only needed for a container
    except ImportError as error:
        raise NoContainerEngine(f"testcontainers is not installed ({error})") from error
    try:
        container = DockerContainer(IMAGE)
        container.get_docker_client().client.ping()
    except (DockerException, OSError) as error:
        raise NoContainerEngine(f"no container engine answers: {error}") from error
    settings = {
        "discovery.type": "single-node",
        "xpack.security.enabled": "false",
        "action.auto_create_index": "false",
        "cluster.routing.allocation.disk.threshold_enabled": "false",
        "ingest.geoip.downloader.enabled": "false",
        "ES_JAVA_OPTS": "-Xms512m -Xmx512m",
    }
    for name, value in settings.items():
        container.with_env(name, value)
    with container.with_exposed_ports(9200):
        url = f"http://{container.get_container_host_ip()}:{container.get_exposed_port(9200)}"
        deadline = time.monotonic() + timeout
        while not answers(url):
            if time.monotonic() > deadline:
                log = b"".join(container.get_logs()).decode(errors="replace").splitlines()
                raise NodeError(f"{IMAGE} was not ready in {timeout:g} s:\n" + "\n".join(log[-40:]))
            time.sleep(0.2)
        yield url
