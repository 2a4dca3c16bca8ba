"""The ASGI application: routes, middleware, lifespan."""

import asyncio
import logging
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from functools import partial

from elasticsearch import AsyncElasticsearch
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.convertors import register_url_convertor
from starlette.middleware import Middleware
from starlette.routing import Route

from app.api import health
from app.api.errors import HANDLERS
from app.api.middleware import EncodedPath, Metrics
from app.api.ops import OneOpsRecording, OpsRecordings, PostedRecordings
from app.api.playback import Playback
from app.api.recordings import OneRecording, OneScreenRecording, Recordings
from app.api.requests import ResourceConvertor
from app.audit import AuditLog
from app.auth.users_file import users_from_file
from app.background import in_background
from app.errors import RecallError
from app.migration.cutover import recover_abandoned_migrations
from app.services import Services, open_services
from app.settings import Settings, load_settings
from app.store.indices import SchemaMismatch, create_indices

log = logging.getLogger(__name__)

API = "/api/v2"
CONTACT_CENTER = "/contact-centers/{contact_center}"

register_url_convertor("resource", ResourceConvertor())
RESOURCE = "{resource:resource}"  # recordings or screen-recordings

ROUTES = [
    Route(f"{API}/recordings/recordings", Recordings),
    Route(f"{API}/recordings/{{id}}", OneRecording),
    Route(f"{API}/{RESOURCE}", Recordings),
    Route(f"{API}/{RESOURCE}/screen-recordings", Recordings),
    Route(f"{API}/{RESOURCE}/{{id}}", OneScreenRecording),
    Route(f"{API}/{RESOURCE}/{{id}}/play/{{name}}", Playback),
    Route(f"{API}/ops{CONTACT_CENTER}/{RESOURCE}", OpsRecordings),
    Route(f"{API}/ops{CONTACT_CENTER}/{RESOURCE}/", PostedRecordings),
    Route(f"{API}/ops{CONTACT_CENTER}/{RESOURCE}/{{id}}", OneOpsRecording),
    Route(f"/internal-api{CONTACT_CENTER}/recordings", PostedRecordings),
    Route(f"/internal-api{CONTACT_CENTER}/recordings/", PostedRecordings),
    Route("/health/live", health.live),
    Route("/health/ready", health.ready),
    Route("/metrics", health.metrics),
]

_RETRY_INDICES_SECONDS = 2.0
_UPKEEP_SECONDS = 15.0


def create_app(settings: Settings | None = None) -> Starlette:
    """The application; without settings it reads them from the environment.

    Raises ConfigurationError, and at start SchemaMismatch.
    """
    settings = settings or load_settings()
    metrics = CollectorRegistry()
    audit = AuditLog(settings.audit_log)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with closing(audit):
            async with open_services(settings, audit, metrics) as services:
                app.state.services = services
                async with (
                    _indices(services.client, settings),
                    _upkeep(services),
                    users_from_file(settings.config, services.authenticator),
                ):
                    yield

    app = Starlette(
        routes=ROUTES,
        middleware=[Middleware(EncodedPath), Middleware(Metrics, registry=metrics)],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )
    app.state.metrics = metrics
    app.router.redirect_slashes = False
    return app


@asynccontextmanager
async def _upkeep(services: Services) -> AsyncIterator[None]:
    """Sees through, now and then, what a process that died left half done: any process may do it, several too."""
    async with (
        in_background(_now_and_then(services.protection.repair)),
        in_background(_now_and_then(partial(services.deletion.sweep, only_due=True))),
        in_background(_now_and_then(partial(recover_abandoned_migrations, services.client, services.settings))),
    ):
        yield


async def _now_and_then(work: Callable[[], Awaitable[object]]) -> None:
    while True:
        await asyncio.sleep(random.uniform(0.5, 1.5) * _UPKEEP_SECONDS)  # noqa: S311
        try:
            await work()
        except RecallError as error:
            log.warning("upkeep has to wait: %s", error)
        except Exception:  # the next round may go better, and there must be one
            log.exception("upkeep failed")


@asynccontextmanager
async def _indices(client: AsyncElasticsearch, settings: Settings) -> AsyncIterator[None]:
    """Makes missing indices before the first request, or later when Elasticsearch is not there yet.

    Raises SchemaMismatch.
    """
    try:
        await create_indices(client, settings)
    except RecallError as error:
        log.warning("Elasticsearch cannot be used yet (%s); trying again until it can", error.__cause__)
        async with in_background(_create_indices_later(client, settings)):
            yield
    else:
        yield


async def _create_indices_later(client: AsyncElasticsearch, settings: Settings) -> None:
    while True:
        await asyncio.sleep(_RETRY_INDICES_SECONDS)
        try:
            await create_indices(client, settings)
        except RecallError:
            continue
        except SchemaMismatch:
            log.exception("the service cannot work with these indices, so it stops")
            signal.raise_signal(signal.SIGTERM)
        return
