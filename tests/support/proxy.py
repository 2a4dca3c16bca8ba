"""nginx in front of the service, with the configuration of docs/examples/."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.embedded.servers import find_program, running, server_folder
from tests.support.launch import missing

_NGINX_TEMPLATE = Path(__file__).parents[2] / "docs/examples/nginx.conf.template"


@contextlib.contextmanager
def nginx(app: str, resolver: str) -> Iterator[str]:
    """The configuration of docs/examples/ in front of the service at `app`, name and port; the URL of nginx."""
    program = find_program("nginx")
    if not program:
        missing("nginx", "apt-get install nginx")
    with server_folder() as folder:

        def command(port: int) -> list[Any]:
            values = {"LISTEN": f"127.0.0.1:{port}", "RECALL_APP": app, "RESOLVER": resolver}
            recall = _NGINX_TEMPLATE.read_text().replace("/dev/stdout", f"{folder}/access.log")
            recall = recall.replace(" valid=5s", " valid=1s")  # no test is to wait for longer
            for name, value in values.items():
                recall = recall.replace(f"${{{name}}}", value)
            (folder / "nginx.conf").write_text(_nginx_config(folder, recall))
            return [program, "-c", folder / "nginx.conf", "-e", folder / "error.log"]

        with running(folder, command) as port:
            yield f"http://127.0.0.1:{port}"


def _nginx_config(folder: Path, recall: str) -> str:
    """What the official image has around a template."""
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"daemon off; pid {folder}/pid; events {{}} http {{ {temporary}\n{recall} }}"
