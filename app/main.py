"""The ASGI application: routes, middleware, lifespan."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from functools import cache, partial
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from app import codec
from app.api import routes as api
from app.api.description import describe
from app.api.docs import VERSION
from app.api.errors import HANDLERS
from app.api.middleware import EncodedPath, Metrics
from app.api.origins import Origins
from app.api.routes import router_routes
from app.audit import AuditLog
from app.auth.users_file import users_from_file
from app.background import in_background, watch_event_loop
from app.errors import RecallError
from app.lifecycle.maintenance import PeriodicTask, maintenance, needed_indices
from app.media.missing import MissingMedia
from app.media.versioning import versioned_buckets_reported
from app.migration.cutover import recover_abandoned_migrations
from app.page import routes as page
from app.page.headers import PageHeaders
from app.services import Services, leave_a_processor_to_others, open_services
from app.settings import Settings, load_settings

# Every path that the service knows.
ENDPOINTS = (*api.ENDPOINTS, *page.ENDPOINTS)


class _App(Starlette):
    """With the headers of the page around everything, the answers to unexpected errors too."""

    public_url: str | None = None

    def build_middleware_stack(self) -> ASGIApp:
        return PageHeaders(super().build_middleware_stack(), self.public_url)


@cache
def _description() -> bytes:
    """The description of the API, which is the same for every application of the process."""
    return codec.encode(describe(api.ENDPOINTS, VERSION))


def create_app(settings: Settings | None = None) -> Starlette:
    """The application; without settings it reads them from the environment.

    Raises ConfigurationError, and at start SchemaMismatch.
    """
    settings = settings or load_settings()
    metrics = CollectorRegistry()
    ProcessCollector(registry=metrics)  # memory, descriptors and processor time, where there is /proc
    build = Gauge(
        "recall_build_info",
        "The version of Recall that runs.",
        ["version"],
        registry=metrics,
        multiprocess_mode="livemax",
    )
    build.labels(version("recall")).set(1)
    audit = AuditLog(settings.audit_log, metrics)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with closing(audit):
            async with open_services(settings, audit, metrics) as services:
                app.state.services = services
                async with (
                    in_background(watch_event_loop(metrics)),
                    needed_indices(services.client, settings),
                    maintenance(_periodic_tasks(services), metrics),
                    versioned_buckets_reported(services.storages, metrics),
                    users_from_file(settings.config, services.authenticator, metrics),
                    in_background(_audit_lines_left_behind(services)),
                    in_background(_places_beside_others(services)),
                    in_background(services.operations.carry_on()),
                ):
                    yield

    app = _App(
        routes=router_routes(ENDPOINTS),
        middleware=[
            Middleware(EncodedPath),
            Middleware(Metrics, registry=metrics),
            Middleware(Origins, allowed=settings.allowed_origins, public_url=settings.public_url),
        ],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )
    app.public_url = settings.public_url
    app.state.metrics = metrics
    app.state.description = _description()
    app.router.redirect_slashes = False
    return app


async def _audit_lines_left_behind(services: Services) -> None:
    if services.audit_indexing is not None:
        await services.audit_indexing.read_end_again()


async def _places_beside_others(services: Services) -> None:
    with suppress(RecallError):  # the periodic task looks again
        await leave_a_processor_to_others(services)


def _periodic_tasks(services: Services) -> list[PeriodicTask]:
    # No operator watches it, so it forgets no object of a storage that has shown none for a while.
    sweep = services.deletion.judging(MissingMedia())
    indexing = services.audit_indexing
    audit = [] if indexing is None else [PeriodicTask("audit", indexing.forget)]
    return [
        *audit,
        PeriodicTask("protection", services.protection.repair),
        PeriodicTask("media-deletion", partial(sweep.sweep, only_due=True)),
        PeriodicTask("media-claims", sweep.expire_claims),
        PeriodicTask("sessions", services.sessions.sweep),
        PeriodicTask("operations", services.operations.forget),
        PeriodicTask("searches", partial(leave_a_processor_to_others, services)),
        PeriodicTask("migration", partial(recover_abandoned_migrations, services.client, services.settings)),
    ]
