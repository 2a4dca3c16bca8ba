"""What a process makes once and every request uses."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from app.audit import AuditLog
from app.auth import Authenticator
from app.media.storage import MediaStorages
from app.settings import Settings
from app.store.repository import RecordingRepository


@dataclass(frozen=True)
class Services:
    settings: Settings
    authenticator: Authenticator
    recordings: RecordingRepository
    storages: MediaStorages
    metrics: CollectorRegistry
    audit: AuditLog
