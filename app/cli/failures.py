"""The settings of a command, and its failures: one line on standard error and exit status 1."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from elasticsearch import ApiError

from app.errors import RecallError
from app.logs import log_to_stderr
from app.settings import ConfigurationError, Settings, load_settings
from app.store.indices import SchemaMismatch


@contextmanager
def configured(
    interrupted: str = "interrupted",
    *,
    level: int,
    expected: tuple[type[Exception], ...] = (),
    elasticsearch_failed: str = "cannot use the Elasticsearch at {url}: {reason}",
    **options: int | None,
) -> Iterator[Settings]:
    """Yields the settings of the environment, with logging set up from `level` on.

    `options` replace settings of the same name where they are not None. A failure in the body becomes one line on
    standard error and exit status 1: the text of an error that is `expected`, `elasticsearch_failed`, or
    `interrupted` after Ctrl-C.
    """
    environment = {f"RECALL_{name.upper()}": str(value) for name, value in options.items() if value is not None}
    try:
        settings = load_settings({**os.environ, **environment})
    except ConfigurationError as error:
        sys.exit(str(error))
    log_to_stderr(settings.log_format, level)
    expected_errors: tuple[type[Exception], ...] = (ConfigurationError, SchemaMismatch, *expected)
    try:
        yield settings
    except expected_errors as error:
        sys.exit(str(error))
    except (RecallError, ApiError) as error:
        sys.exit(elasticsearch_failed.format(url=settings.elasticsearch_url, reason=error.__cause__ or error))
    except KeyboardInterrupt:
        sys.exit(interrupted)


def first_objects_missing(storage: str) -> str:
    """Returns what a command says that stops because a storage may not have mounted its share."""
    return (
        f"the first media objects of {storage} are all missing, so nothing more is deleted; "
        "if its share is mounted, --missing-media-ok goes on"
    )


def some_objects_missing(count: int) -> str:
    """Returns what a command says at its end about missing objects that it did not believe to be gone."""
    return f"media objects not deleted because they are missing: {count}; if all shares are mounted, --missing-media-ok"
