"""What somebody does with the client that openapi-python-client has made (`test_documented_clients.py`)."""
# mypy: ignore-errors

import json
import os
import sys
from base64 import b64encode
from pathlib import Path

from recall_client import AuthenticatedClient
from recall_client.api.contact_center import (
    get_recording,
    get_recording_media,
    get_recordings,
    post_label_definitions,
    post_recording,
    post_recording_labels,
)
from recall_client.api.operators import post_ops_recordings
from recall_client.models import (
    PostedRecording,
    PostLabelDefinitionsBody,
    PostRecordingBody,
    PostRecordingBodyOperationName,
    PostRecordingLabelsBody,
)


def client(user: str) -> AuthenticatedClient:
    token = b64encode(f"{user}:{user}-password".encode()).decode()
    return AuthenticatedClient(base_url=os.environ["RECALL"], token=token, prefix="Basic")


def main(contact_center: str, file: str) -> None:
    ops, admin = client("ops"), client("admin")
    for posted in json.loads(Path(file).read_text()):
        body = PostedRecording.from_dict(posted)
        answer = post_ops_recordings.sync_detailed(contact_center, client=ops, body=body, refresh="wait_for")
        assert answer.status_code == 201
        assert answer.parsed.id == posted["id"]

    found, offset = [], 0
    while True:
        page = get_recordings.sync(client=admin, caller_phone_number="*", limit=2, offset=offset, total="*")
        assert (page.total, page.total_is_exact) == (3, True)
        found += [recording.id for recording in page.recordings]
        if not page.next_uri:
            break
        offset += len(page.recordings)
    assert found == ["r0", "r1", "r2"]

    recording = get_recording.sync("r1", client=admin).recording
    name = recording.media_files[0].play_path.rpartition("/")[2]
    played = get_recording_media.sync_detailed("r1", name, client=admin, range_="bytes=2-4")
    assert (played.status_code, played.content) == (206, b"234")

    protect = PostRecordingBody(PostRecordingBodyOperationName.APPLYNONDELETE, reason="LegalHold#245")
    assert post_recording.sync("r1", client=admin, body=protect).status_code == 0
    post_label_definitions.sync(client=admin, body=PostLabelDefinitionsBody("complaint"))
    label = PostRecordingLabelsBody("complaint", comment="loud")
    assert post_recording_labels.sync_detailed("r1", client=admin, body=label).status_code == 201
    recording = get_recording.sync("r1", client=admin).recording
    assert recording.non_delete is True
    assert recording.non_deletion.reason == "LegalHold#245"
    assert [label.comment for label in recording.labels] == ["loud"]
    sys.stdout.write("done\n")


main(*sys.argv[1:])
