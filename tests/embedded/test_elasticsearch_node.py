"""The embedded Elasticsearch: the real distribution, real processes, real signals."""

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.embedded import distribution, elasticsearch
from app.embedded.choose import NoContainerEngine, elasticsearch_for_development
from app.embedded.elasticsearch import Node, answers
from app.embedded.errors import DistributionError, NodeError
from app.embedded.servers import free_port
from tests.support.workers import SPARE_NODE

HOLDER = """
import signal, sys
from pathlib import Path
from app.embedded.elasticsearch import Node
node = Node.start(data=Path(sys.argv[1]) if sys.argv[1:] else None)
print(node.pid, node.url, node.folder, flush=True)
signal.pause()
"""


pytestmark = SPARE_NODE


@pytest.fixture
def node(spare_node: Node) -> Node:
    return spare_node


@pytest.fixture
def documents() -> Iterator[Path]:
    # Not tmp_path: when root runs the tests, Elasticsearch is another user, who cannot get there.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        yield Path(folder) / "documents"


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "recall"


def test_node_answers(node: Node) -> None:
    assert call(node.url, "GET", "/_cluster/health")["number_of_nodes"] == 1


def test_node_does_not_create_indices_automatically(node: Node) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        call(node.url, "PUT", "/a-typo/_doc/1", {"some": "thing"})
    refused.value.close()
    assert refused.value.code == 404


def test_node_joins_the_cluster_of_its_seed_hosts_until_it_is_killed(node: Node) -> None:
    with Node.start(name="two", seed_hosts=[node.transport]) as two:
        wait_until(lambda: call(node.url, "GET", "/_cluster/health")["number_of_nodes"] == 2)
        pid = two.pid
        two.kill()
        assert not exists(pid)
        with pytest.raises(NodeError, match="does not run"):
            _ = two.pid
    assert not two.folder.exists()
    wait_until(lambda: call(node.url, "GET", "/_cluster/health")["number_of_nodes"] == 1)


def test_paused_node_does_not_answer_until_it_is_resumed(node: Node) -> None:
    node.pause()
    try:
        with pytest.raises(TimeoutError):
            call(node.url, "GET", "/_cluster/health", timeout=0.5)
    finally:
        node.resume()
    assert call(node.url, "GET", "/_cluster/health")["number_of_nodes"] == 1


def test_node_ends_with_the_process_that_started_it_and_leaves_its_documents_to_the_next_one(
    node: Node, documents: Path
) -> None:
    command = [sys.executable, "-c", HOLDER, str(documents)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        number, url, folder = holder.stdout.readline().split()
        pid = int(number)
        assert exists(pid)
        call(url, "PUT", "/kept")
        call(url, "PUT", "/kept/_doc/1", {"some": "thing"})
        assert call(node.url, "GET", "/_cat/indices/kept*?format=json") == []
        assert call(url, "GET", "/_cluster/health")["number_of_nodes"] == 1
        holder.kill()
        holder.wait()
        wait_until(lambda: not exists(pid))
        wait_until(lambda: not Path(folder).exists())

    second = Node.start(data=documents)
    pid = second.pid
    wait_until(lambda: shards_are_there(second, "kept"))
    assert call(second.url, "GET", "/kept/_doc/1")["_source"] == {"some": "thing"}
    second.pause()  # a stalled node is stopped, too
    second.stop()
    assert not exists(pid)
    assert not second.folder.exists()
    second.stop()  # again does no harm
    assert any(documents.iterdir())


def test_node_that_starts_ends_with_the_process_that_starts_it() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)  # see `documents`
        with subprocess.Popen([sys.executable, "-c", HOLDER], env={**os.environ, "TMPDIR": name}) as holder:
            wait_until(lambda: any(file.read_text() for file in folder.glob("*/pid")))
            (file,) = folder.glob("*/pid")
            pid = int(file.read_text())
            assert exists(pid)
            holder.terminate()
            holder.wait()
            wait_until(lambda: not exists(pid))
            wait_until(lambda: not any(folder.iterdir()))


def test_the_demo_keeps_its_documents_private_and_leaves_nothing_behind_on_sigterm() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)  # see `documents`
        temporary, data = folder / "temporary", folder / "data"
        temporary.mkdir(mode=0o711)
        data.mkdir(mode=0o755)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RECALL_")}
        environment |= {"TMPDIR": str(temporary), "RECALL_PORT": str(free_port())}
        command = [sys.executable, "-m", "app", "demo", "--no-demo", "--data", str(data)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as demo:
            try:
                assert demo.stdout
                assert any("Recall serves" in line for line in demo.stdout)
                limits = Path(f"/proc/{demo.pid}/limits").read_text().splitlines()
                assert [line.split()[4:6] for line in limits if "core file size" in line] == [["0", "0"]]
                assert len(list(temporary.iterdir())) == 2  # the node's and the media's
                assert data.stat().st_mode & 0o777 == 0o700
                demo.send_signal(signal.SIGTERM)
                assert demo.wait(60) == 0
            finally:
                demo.kill()
        assert list(temporary.iterdir()) == []
        assert any(data.iterdir())


def test_the_demo_leaves_nothing_behind_on_sigterm_while_it_starts() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)  # see `documents`
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RECALL_")}
        environment |= {"TMPDIR": name, "RECALL_PORT": str(free_port()), "RECALL_WORKERS": "2"}
        with subprocess.Popen([sys.executable, "-m", "app", "demo"], env=environment) as demo:
            try:
                wait_until(lambda: any(folder.iterdir()))
                demo.send_signal(signal.SIGTERM)
                assert demo.wait(60) == 0
            finally:
                demo.kill()
        wait_until(lambda: not any(folder.iterdir()))


def test_a_signal_in_the_moment_in_which_the_folder_is_made_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, make = tmp_path / "node", Path.mkdir

    def interrupted(path: Path, *arguments: Any, **options: Any) -> None:
        make(path, *arguments, **options)
        if path == folder:
            raise KeyboardInterrupt

    monkeypatch.setattr(elasticsearch, "new_temporary_folder", lambda: folder)
    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Node.start()
    assert not folder.exists()


def test_failed_start_reports_the_log_of_the_node() -> None:
    with pytest.raises(NodeError, match="Too small maximum heap"):
        Node.start(heap="1k")


def test_start_timeout_leaves_no_process() -> None:
    with pytest.raises(NodeError, match="not ready in 0 s"):
        Node.start(timeout=0)


def test_port_in_use_is_an_error(node: Node) -> None:
    with pytest.raises(NodeError, match=r"[Aa]ddress already in use"):
        Node.start(http_port=int(node.url.rpartition(":")[2]))


@pytest.mark.parametrize("content", [b"", b"not what was published"])
def test_wrong_checksum_is_refused(content: bytes, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "_download", lambda archive: archive.write_bytes(content))
    with pytest.raises(DistributionError, match=r"SHA-256 is .*instead of " + distribution.SHA256):
        distribution.distribution()
    assert [path.suffix for path in empty_cache.iterdir()] == [".lock"]


def test_failed_download_is_reported_and_leaves_no_file(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DistributionError, match=r"could not download org\.elasticsearch"):
        distribution.distribution()
    assert [path.suffix for path in empty_cache.iterdir()] == [".lock"]


def test_concurrent_processes_download_the_distribution_once(empty_cache: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from app.embedded.distribution import distribution; print(distribution())",
    ]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate() for process in processes]
    home = empty_cache / f"elasticsearch-{distribution.VERSION}"
    assert [out.strip() for out, _ in outputs] == [str(home)] * 2
    assert sum("downloading" in err for _, err in outputs) == 1
    assert os.access(home / "bin" / "elasticsearch", os.X_OK)
    assert {path.name for path in empty_cache.iterdir()} == {home.name, f".{home.name}.lock"}


def test_configured_elasticsearch_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECALL_ELASTICSEARCH", "container")
    monkeypatch.setenv("RECALL_ELASTICSEARCH_URL", "http://one.example:9200, http://two.example:9200")
    with elasticsearch_for_development() as url:
        assert url == "http://one.example:9200"


@pytest.mark.parametrize("kind", [None, "", "embedded"])
def test_embedded_node_is_the_default(kind: str | None, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    choose_kind(monkeypatch, kind)
    monkeypatch.setattr(Node, "start", lambda: Lent(node))
    with elasticsearch_for_development() as url:
        assert url == node.url


def test_unknown_kind_of_elasticsearch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    choose_kind(monkeypatch, "docker")
    with pytest.raises(ValueError, match="must be 'container' or 'embedded', not 'docker'"):
        elasticsearch_for_development().__enter__()


# The Docker client leaves its socket open when no engine answers.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_container_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    choose_kind(monkeypatch, "container")
    try:
        with elasticsearch_for_development() as url:
            assert answers(url)
        return
    except NoContainerEngine as error:
        reason = str(error)
    gc.collect()  # now, while the warning is ignored
    pytest.skip(reason)


class Lent:
    """A node that is not stopped by whom it is lent to."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def __enter__(self) -> Node:
        return self.node

    def __exit__(self, *_: object) -> None:
        pass


def choose_kind(monkeypatch: pytest.MonkeyPatch, kind: str | None) -> None:
    monkeypatch.delenv("RECALL_ELASTICSEARCH_URL", raising=False)
    monkeypatch.delenv("RECALL_ELASTICSEARCH", raising=False)
    if kind is not None:
        monkeypatch.setenv("RECALL_ELASTICSEARCH", kind)


def call(url: str, method: str, path: str, body: object = None, *, timeout: float = 30.0) -> Any:
    request = urllib.request.Request(
        url + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=timeout) as response:
        return json.load(response)


def shards_are_there(node: Node, index: str) -> bool:
    return bool(call(node.url, "GET", f"/_cluster/health/{index}?timeout=0s")["active_primary_shards"] == 1)


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_foreign_folder_is_refused_as_data_folder(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    owner = (tmp_path / "letter.txt").stat().st_uid
    with pytest.raises(NodeError, match="neither empty nor the data folder of a node"):
        Node.start(data=tmp_path)
    assert (tmp_path / "letter.txt").stat().st_uid == owner
