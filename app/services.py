"""The objects that a process makes once and all requests share. Commands that work on recordings make the same."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass

from elasticsearch import AsyncElasticsearch
from prometheus_client import CollectorRegistry

from app.audit import AuditLog
from app.auth.passwords import Authenticator
from app.lifecycle.audit_indexing import AuditIndexing
from app.lifecycle.deletion import Deletion
from app.lifecycle.labels import Labelling
from app.lifecycle.operations import Operations
from app.lifecycle.package import Packages
from app.lifecycle.protection import Protection
from app.lifecycle.sessions import Sessions
from app.media.storages import MediaStorages, open_storages
from app.media.waveform import Waveforms
from app.recordings.identity import Resource
from app.settings import Settings
from app.shares import Activity, Limits, Shares
from app.store.audit_index import AuditIndex
from app.store.claims import MediaClaims
from app.store.client import connect, processors
from app.store.journal import DeletionJournal
from app.store.label_definitions import LabelDefinitionStore
from app.store.operations import OperationStore
from app.store.repository import RecordingRepository
from app.store.sessions import SessionStore

# How long a search within its user's share waits for those of the same contact center that came before.
_SEARCH_PATIENCE_SECONDS = 30.0
# How long a search waits for the bytes of its page.
_SEARCH_BYTES_SECONDS = 10.0
_UNLIMITED = 2**31

# POSTs of many recordings, each of up to 32 MiB: of a process, of a contact center. They wait this long for a place.
_BATCHES, _BATCHES_OF_A_CONTACT_CENTER = 4, 2
_BATCH_WAIT_SECONDS = 10.0

# Operations by up to 1,000 ids, which are done before the answer.
_OPERATIONS, _OPERATIONS_OF_A_CONTACT_CENTER = 4, 2


@dataclass(frozen=True)
class Services:
    """What a process shares between its requests; `open_services` makes and closes it."""

    settings: Settings
    client: AsyncElasticsearch
    authenticator: Authenticator
    sessions: Sessions
    repositories: Mapping[Resource, RecordingRepository]
    protection: Protection
    labelling: Labelling
    deletion: Deletion
    operations: Operations
    packages: Packages
    storages: MediaStorages
    waveforms: Waveforms
    metrics: CollectorRegistry
    audit: AuditLog
    audit_index: AuditIndex
    audit_indexing: AuditIndexing | None  # None: it is switched off
    activity: Activity
    searches: Shares
    search_bytes: Shares
    streams: Shares
    batches: Shares
    operations_by_ids: Shares


@asynccontextmanager
async def open_services(settings: Settings, audit: AuditLog, metrics: CollectorRegistry) -> AsyncIterator[Services]:
    """Yields the services. No connection is opened yet."""
    async with connect(settings) as client, open_storages(settings) as storages:
        recordings = RecordingRepository(client, settings)
        screen_recordings = RecordingRepository(client, settings, "screen-recordings")
        repositories: dict[Resource, RecordingRepository] = {
            "recordings": recordings,
            "screen-recordings": screen_recordings,
        }
        protection = Protection(recordings, screen_recordings)
        authenticator = Authenticator(settings.users, workers=settings.worker_count)
        audit_index = AuditIndex(client, settings)
        indexing = (
            AuditIndexing(audit_index, days=settings.audit_days, registry=metrics) if settings.audit_days else None
        )
        streams = _stream_shares(settings, metrics)
        activity = Activity()
        labelling = Labelling(LabelDefinitionStore(client, settings), recordings)
        deletion = Deletion(
            repositories,
            protection,
            DeletionJournal(client, settings),
            MediaClaims(client, settings),
            storages,
            settings.storage,
            audit,
        )
        services = Services(
            settings=settings,
            client=client,
            authenticator=authenticator,
            sessions=Sessions(SessionStore(client, settings), authenticator, settings),
            repositories=repositories,
            protection=protection,
            labelling=labelling,
            deletion=deletion,
            operations=Operations(
                OperationStore(client, settings),
                recordings,
                protection,
                labelling,
                deletion,
                authenticator,
                audit,
                settings,
                metrics,
            ),
            packages=Packages(repositories, storages, settings.storage, audit_index if indexing else None),
            storages=storages,
            waveforms=Waveforms(storages, streams, metrics),
            metrics=metrics,
            audit=audit,
            audit_index=audit_index,
            audit_indexing=indexing,
            activity=activity,
            searches=_search_shares(settings, metrics, activity),
            search_bytes=_search_byte_shares(settings, metrics),
            streams=streams,
            batches=_batch_shares(metrics),
            operations_by_ids=_operation_shares(metrics),
        )
        async with indexing.following(audit) if indexing is not None else nullcontext():
            yield services


def _search_shares(settings: Settings, metrics: CollectorRegistry, activity: Activity) -> Shares:
    # The other connections to Elasticsearch are for reads and writes, which therefore never wait for searches.
    total = min(settings.searches, settings.elasticsearch_connections // 2)
    contact_center = min(settings.searches_per_contact_center, total)
    return Shares(
        "searches",
        "searches",
        Limits(total, contact_center, user=contact_center),
        metrics,
        wait=settings.search_wait_seconds,
        patience=_SEARCH_PATIENCE_SECONDS,
        patient=settings.searches_per_user,
        activity=activity,
    )


async def leave_a_processor_to_others(services: Services) -> None:
    """Beside others, lets one contact center have fewer searches in flight than Elasticsearch has processors.

    Each worker process lets it have its part of these, and at least 1. Raises ElasticsearchUnavailable, InternalError.
    """
    count = await processors(services.client, services.settings.elasticsearch_timeout)
    if count is not None:
        services.searches.leave_room(max((count - 1) // services.settings.worker_count, 1))


def _search_byte_shares(settings: Settings, metrics: CollectorRegistry) -> Shares:
    share = settings.search_bytes // 2
    limits = Limits(settings.search_bytes, share, user=share)
    return Shares("searches", "search_bytes", limits, metrics, wait=_SEARCH_BYTES_SECONDS)


def _stream_shares(settings: Settings, metrics: CollectorRegistry) -> Shares:
    # Each storage bounds all of its streams by itself.
    limits = Limits(_UNLIMITED, settings.streams_per_contact_center, user=settings.streams_per_user)
    return Shares("streams", "streams", limits, metrics, wait=settings.storage_wait_seconds)


def _batch_shares(metrics: CollectorRegistry) -> Shares:
    limits = Limits(_BATCHES, _BATCHES_OF_A_CONTACT_CENTER, user=_BATCHES_OF_A_CONTACT_CENTER)
    return Shares("posts of many recordings", "batches", limits, metrics, wait=_BATCH_WAIT_SECONDS)


def _operation_shares(metrics: CollectorRegistry) -> Shares:
    limits = Limits(_OPERATIONS, _OPERATIONS_OF_A_CONTACT_CENTER, user=_OPERATIONS_OF_A_CONTACT_CENTER)
    return Shares("operations on many recordings", "operations", limits, metrics, wait=_BATCH_WAIT_SECONDS)
