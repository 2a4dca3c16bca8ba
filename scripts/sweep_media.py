#!/usr/bin/env python3
"""Delete the media objects that deletions of recordings left behind, now; the service tries again by itself, but later.

Elasticsearch and the media storages are configured as for the service (README.md).
"""

import argparse
import asyncio
import json
import logging
import sys

from load_sample import progress
from prometheus_client import CollectorRegistry

from app import codec
from app.audit import AuditLog
from app.errors import RecallError
from app.lifecycle.deletion import Swept
from app.recordings.dates import format_instant
from app.services import open_services
from app.settings import ConfigurationError, Settings, load_settings
from app.store.client import connect
from app.store.journal import DeletionJournal, MediaDeletion


async def sweep(settings: Settings) -> Swept:
    # Its audit log is for recordings; of media objects alone it has no lines.
    async with open_services(settings, AuditLog(None), CollectorRegistry()) as services:
        total = await DeletionJournal(services.client, settings).count()
        with progress(total, "sweeping", "media objects") as advance:
            return await services.deletion.sweep(only_due=False, advance=advance)


async def show(settings: Settings) -> int:
    """Prints the entries of the journal, and returns how many there are."""
    count = 0
    async with connect(settings) as client:
        async for batch in DeletionJournal(client, settings).entries():
            for entry in batch:
                print(_line(entry))
            count += len(batch)
    return count


def _line(entry: MediaDeletion) -> str:
    """JSON in ASCII: what clients once posted cannot drive a terminal."""
    return json.dumps(
        {
            "contactCenter": entry.contact_center,
            "resource": entry.resource,
            "recordingId": entry.recording_id,
            "mediaId": entry.media_id,
            "mediaDescriptor": codec.decode(entry.descriptor),
            "created": format_instant(entry.created),
            "attempts": entry.attempts,
        }
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--dry-run", action="store_true", help="list them as lines of JSON, and delete nothing")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("elastic_transport").setLevel(logging.ERROR)
    try:
        settings = load_settings()
        if options.dry_run:
            print(f"{asyncio.run(show(settings))} media objects are to be deleted", file=sys.stderr)
            return
        swept = asyncio.run(sweep(settings))
    except ConfigurationError as error:
        sys.exit(str(error))
    except RecallError as error:
        sys.exit(f"cannot use the Elasticsearch at {settings.elasticsearch_url}: {error.__cause__ or error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; another run goes on with what is left")
    print(f"deleted {swept.deleted}, still needed {swept.needed}, failed {swept.failed}")
    if swept.failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
