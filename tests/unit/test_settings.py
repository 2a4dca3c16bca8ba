"""Configuration: the environment before the file before the defaults."""

import re
from pathlib import Path

import pytest

import app.settings
from app.settings import (
    ConfigurationError,
    S3Config,
    Settings,
    StorageConfig,
    User,
    WebDavConfig,
    load_settings,
    misspelt,
)

USER = """
[[users]]
name = "admin"
password_hash = "$argon2id$x"
roles = ["admin"]
contact_center = "cc"
permissions = []
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "recall.toml"


def test_defaults_apply_without_configuration() -> None:
    assert load_settings({}) == Settings()


def test_environment_takes_precedence_over_the_file(file: Path) -> None:
    file.write_text('region = "eu"\nport = 81\n' + USER)
    settings = load_settings({"RECALL_CONFIG": str(file), "RECALL_PORT": "82", "RECALL_REGION": ""})
    assert (settings.region, settings.port) == ("eu", 82)
    assert settings.users[0].contact_center == "cc"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("region = 5", "region"),
        ('region = " eu"', "white space"),
        ("regoin = 'eu'", "regoin"),
        ("region = ", "recall.toml"),
        ("index_prefix = 'Recall'", "index_prefix"),
        ("elasticsearch_url = 'localhost:9200'", "elasticsearch_url"),
        ("elasticsearch_url = 'http://a:9200,'", "elasticsearch_url"),
        ("elasticsearch_username = 'a'\nelasticsearch_api_key = 'b'", "exclude each other"),
        ("shards = 0", "shards"),
        ("storage_streams = 0", "storage_streams is above 0"),
        ("session_idle_seconds = 60", "session_idle_seconds is 180 or more"),
        ("max_connections = -1", "max_connections is above 0"),
        ("shutdown_seconds = -1", "shutdown_seconds is 0 or more"),
        ("player_stall_seconds = nan", "player_stall_seconds is above 0, and finite"),
        ("session_seconds = inf", "session_seconds is above 0, and finite"),
        ("public_url = 'https://x/?a'", "without a query"),
        ("public_url = 'https://'", "public_url"),
        ("elasticsearch_timeout = 0", "elasticsearch_timeout"),
        ("elasticsearch_write_timeout = -1", "elasticsearch_write_timeout"),
        (USER.replace('"admin"]', '"ops"]'), "so it has none"),
        (USER.replace('"admin"]', '"ops", "recorder"]'), "so it has none"),
        (USER.replace('"admin"]', '"recorder", "agent"]').replace('contact_center = "cc"', ""), "contact_center"),
        ("public_url = 'example.com'", "public_url"),
        ("[[storage.webdav]]\nbase_url = 'https://a/b'\nca_file = '/nowhere.pem'", "ca_file '/nowhere.pem'"),
        (f"[[storage.s3]]\nbuckets = ['b']\nca_file = '{__file__}'", "test_settings.py' of a storage cannot be used"),
        (USER + USER, "same name"),
        (USER.replace('contact_center = "cc"', ""), "contact_center"),
        (USER.replace('"cc"', '" cc"'), "white space"),
        (USER.replace("$argon2id$x", "secret"), "password_hash"),
        (USER.replace('"admin"]', '"boss"]'), "roles"),
        (USER.replace('name = "admin"', 'name = "a:b"'), "colon"),
        (USER.replace('"admin"]', '"ops", "admin"]') + "access_groups = ['/US']", "without ops"),
        (USER.replace('"admin"]', '"recorder"]') + "own_recordings = true", "need the role"),
        (USER + "partitions = ['']", "'' of user 'admin' is no path"),
        (USER + f"access_groups = ['{'a/' * 100}b']", "1 to 100 parts"),
        (USER + "access_groups = '/US'", "access_groups"),
        (USER + "own_recordings = 'yes'", "own_recordings"),
    ],
)
def test_mistake_in_the_file_is_named(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        load_settings({"RECALL_CONFIG": str(file)})


def test_mistake_in_the_environment_is_named() -> None:
    with pytest.raises(ConfigurationError, match="port"):
        load_settings({"RECALL_PORT": "eighty"})


def test_missing_file_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml"):
        load_settings({"RECALL_CONFIG": "nowhere.toml"})


def test_message_contains_no_secret_of_the_file(file: Path) -> None:
    file.write_text(USER.replace("$argon2id$x", "hunter2"))
    with pytest.raises(ConfigurationError) as error:
        load_settings({"RECALL_CONFIG": str(file)})
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("mode", [0o602, 0o646, 0o666, 0o777])
def test_a_file_that_every_user_may_write_is_refused(file: Path, mode: int) -> None:
    file.write_text(USER)
    file.chmod(mode)
    with pytest.raises(ConfigurationError, match=rf"every user of the machine may write .*toml \(mode {mode:04o}\)"):
        load_settings({"RECALL_CONFIG": str(file)})
    for allowed in (0o600, 0o644, 0o664):
        file.chmod(allowed)
        assert load_settings({"RECALL_CONFIG": str(file)}).users


def test_a_file_that_every_user_may_replace_is_refused(file: Path, tmp_path: Path) -> None:
    file.write_text(USER)
    link = tmp_path / "elsewhere" / "recall.toml"
    link.parent.mkdir()
    link.symlink_to(file)
    tmp_path.chmod(0o777)
    for path in (file, link):
        with pytest.raises(ConfigurationError, match=rf"may write {tmp_path} \(mode 0777\)"):
            load_settings({"RECALL_CONFIG": str(path)})
    tmp_path.chmod(0o1777)
    assert load_settings({"RECALL_CONFIG": str(file)}).users
    link.parent.chmod(0o777)
    with pytest.raises(ConfigurationError, match=rf"may write {link.parent} \(mode 0777\)"):
        load_settings({"RECALL_CONFIG": str(link)})


def test_no_secret_is_in_the_representation_of_settings() -> None:
    """An error or a log line that shows a value shows none."""
    settings = Settings(
        users=(User(name="ops", password_hash="$argon2id$hunter2", roles=("ops",)),),
        storage=StorageConfig(
            (WebDavConfig("http://media.example", "media", "hunter2"),),
            (S3Config(("b",), access_key_id="key", secret_access_key="hunter2"),),
        ),
        elasticsearch_username="elastic",
        elasticsearch_password="hunter2",
    )
    for shown in (repr(settings), str(settings), f"{settings.storage}", repr(settings.users)):
        assert "hunter2" not in shown
        assert "***" in shown
    assert "elasticsearch_password=None" in repr(Settings())
    # A new secret has to be hidden, too.
    fields = {name for kind in (Settings, User, WebDavConfig, S3Config) for name in kind.__struct_fields__}
    secrets = {name for name in fields if re.search("password|secret|token|credential|api_key", name)}
    assert secrets == app.settings._SECRETS


@pytest.mark.parametrize("password", ["hunter2", "hun/ter2", "hun@ter2"])
@pytest.mark.parametrize(
    "text",
    [
        "elasticsearch_url = 'http://127.0.0.1:9200,https://elastic:{}@es.example:9200'",
        "public_url = 'https://user:{}@recall.example'",
        "[[storage.webdav]]\nbase_url = 'http://media:{}@media.example/recordings'",
        "[[storage.webdav]]\nbase_url = 'http://media.example'\naliases = ['http://media:{}@media.example/x']",
        "[[storage.webdav]]\nbase_url = 'http://media.example'\npresence_url = 'http://media:{}@media.example/x'",
        "[[storage.s3]]\nbuckets = ['b']\nendpoint_url = 'http://key:{}@s3.example'",
    ],
)
def test_a_url_with_a_password_is_refused_and_the_message_has_no_password(file: Path, text: str, password: str) -> None:
    file.write_text(text.format(password))
    with pytest.raises(ConfigurationError, match=r"\*\*\*@|user name or password") as error:
        load_settings({"RECALL_CONFIG": str(file)})
    assert "ter2" not in str(error.value)


def test_a_misspelt_variable_is_told_and_no_other() -> None:
    names = ("RECALL_REPLICA", "RECALL_MAX_CONNECTION", "RECALL_SEARCHES_PER_CONTACT_CENTRE", "RECALL_ELASTICSEARCHURL")
    known = (
        "RECALL_REPLICAS",
        "RECALL_ELASTICSEARCH",
        "RECALL_ELASTICSEARCH_URL",
        "RECALL_CONFIG",
        "RECALL_USER",
    )
    # What Kubernetes sets for a service `recall`.
    others = ("RECALL_SERVICE_HOST", "RECALL_SERVICE_PORT", "RECALL_PORT_8080_TCP", "RECALL_PORT_8080_TCP_ADDR", "HOME")
    assert misspelt(dict.fromkeys((*names, *known, *others), "1")) == {
        "RECALL_REPLICA": "RECALL_REPLICAS",
        "RECALL_MAX_CONNECTION": "RECALL_MAX_CONNECTIONS",
        "RECALL_SEARCHES_PER_CONTACT_CENTRE": "RECALL_SEARCHES_PER_CONTACT_CENTER",
        "RECALL_ELASTICSEARCHURL": "RECALL_ELASTICSEARCH_URL",
    }
