"""Three processes that are killed at random, and everything that deletes, against what is held.

That is docs/contract.md sections 7 and 8.

Deletions, operations, a purge, a sweep and a retention rule delete what they can, while recordings arrive, refer to
media objects of others, are held, labelled and updated. What was acknowledged must hold at the end.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from app.recordings.identity import media_uuid
from app.settings import Settings, StorageConfig
from tests.support.faults import Connection, CountingStorage, Request
from tests.support.processes import AppProcess, Scripts
from tests.support.recordings import CONTACT_CENTER, OPS_PATH, a_media_file, a_recording
from tests.support.sizes import EVIDENCE_SECONDS
from tests.support.waiting import eventually

SCREENS_PATH = OPS_PATH.replace("/recordings", "/screen-recordings")
PATHS = {"recordings": OPS_PATH, "screen-recordings": SCREENS_PATH}
APPLY, UNAPPLY = {"operationName": "applyNonDelete"}, {"operationName": "unapplyNonDelete"}
ALL = {"subresources": "*"}
LABEL = "evidence"
_CALLS = 6
_RULES = f"""
[[rules]]
name = "all"
contact_centers = ["{CONTACT_CENTER}"]
at = "02:30"
""" + "".join(
    f"""
[[rules.tasks]]
kind = "purge"
resources = ["{resource}"]
min_age_days = 1
with_media = true
"""
    for resource in PATHS
)
# Seconds between two kills.
_PAUSES = (2.0, 6.0)


class Storage(CountingStorage):
    """Carries out a DELETE after a random time, and notes when."""

    def __init__(self) -> None:
        super().__init__()
        self.deleted: dict[str, float] = {}

    async def answer(self, request: Request, connection: Connection) -> None:
        if request.method == "DELETE":
            await asyncio.sleep(random.choice((0, 0, random.uniform(0, 0.3))))
            if request.target in self.sizes:
                self.deleted[request.target] = asyncio.get_running_loop().time()
        await super().answer(request, connection)


@dataclass
class Known:
    """A recording as its client knows it. A hold, a label and updates count from their acknowledgement."""

    resource: str
    id: str
    call: str
    urls: list[str]
    acknowledged: float = 0.0
    may_be_lifted: bool = True
    is_kept: bool = False  # it is held, and nobody lifts that
    is_labelled: bool = False
    updates: list[str] = field(default_factory=list)
    screens: list["Known"] = field(default_factory=list)  # that must have been taken along


class Campaign:
    """The clients, and what they were told."""

    def __init__(self, apps: list[AppProcess], storage: Storage) -> None:
        self._apps = apps
        self._storage = storage
        self._clients = {(app.url, user): app.client(user) for app in apps for user in ("ops", "admin")}
        self._numbers = iter(range(10_000_000))
        self._urls: list[str] = []
        self.known: dict[tuple[str, str], Known] = {}
        self.all_urls: dict[str, set[str]] = {}  # the uuids under which media files refer to each object
        self.deleted: set[tuple[str, str]] = set()
        self.violations: list[str] = []
        self.statuses: Counter[str] = Counter()
        self.kills = 0

    def __str__(self) -> str:
        kept = [one for one in self.known.values() if one.is_kept]
        return (
            f"{len(self.known)} recordings, {len(kept)} kept, {sum(len(one.screens) for one in kept)} taken along, "
            f"{len(self.deleted)} deleted by requests, {len(self._storage.deleted)} objects deleted, "
            f"{self.kills} kills; {dict(sorted(self.statuses.items()))}"
        )

    async def close(self) -> None:
        await asyncio.gather(*(client.aclose() for client in self._clients.values()))

    async def ask(self, user: str, method: str, url: str, **options: Any) -> httpx.Response | None:
        """An answer of any process, or None."""
        client = self._clients[random.choice(self._apps).url, user]
        try:
            response = await client.request(method, url, **options)
        except httpx.TransportError:
            self.statuses[f"{method} broken"] += 1
            return None
        self.statuses[f"{method} {response.status_code}"] += 1
        if response.status_code >= 500 and response.status_code != 503:
            self.violations.append(f"{method} {url}: {response.status_code} {response.text}")
        return response

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def some(self, resource: str) -> Known | None:
        """One of the newest recordings."""
        found = [
            one for one in list(self.known.values())[-200:]
            if one.resource == resource and one.acknowledged
        ]  # fmt: skip
        return random.choice(found) if found else None

    # --- What clients do ---

    async def record(self, *, may_be_lifted: bool = True) -> Known:
        """Posts a recording with media of its own, and with some that others have too."""
        number = next(self._numbers)
        resource = random.choice(("recordings", "recordings", "screen-recordings"))
        own = [self._storage.put(f"{number}-{i}.wav", 10) for i in range(random.choice((1, 1, 3)))]
        urls = own + random.sample(self._urls[-30:], min(len(self._urls), random.choice((0, 1, 2))))
        self._urls += own
        one = Known(
            resource, f"{resource}-{number}", f"call{random.randrange(_CALLS)}", urls, may_be_lifted=may_be_lifted
        )
        self.known[resource, one.id] = one
        await self.post(one)
        return one

    async def post(self, one: Known, **attributes: str) -> bool:
        """Posts until it is acknowledged, or some time has passed."""
        descriptors = [{"storage": "webDAV", "path": url} for url in one.urls]
        for url, descriptor in zip(one.urls, descriptors, strict=True):
            self.all_urls.setdefault(url, set()).add(str(media_uuid(one.id, descriptor)))
        media = [a_media_file(mediaDescriptor=descriptor, callUUID=one.call) for descriptor in descriptors]
        for _ in range(5):
            response = await self.ask(
                "ops", "POST", PATHS[one.resource], json=a_recording(one.id, mediaFiles=media, **attributes)
            )
            if response is not None and response.is_success:
                one.acknowledged = self.now()
                return True
            await asyncio.sleep(random.uniform(0.1, 0.5))
        return False

    async def keep(self) -> None:
        """Holds a new recording for good, and labels it; then it refers to other objects, too."""
        one = await self.record(may_be_lifted=False)
        if one.resource != "recordings" or not one.acknowledged:
            return
        before = [other for other in list(self.known.values())[-200:] if self._is_along(other, one)]
        response = await self.ask("admin", "POST", f"/api/v2/recordings/{one.id}", json=APPLY)
        if response is None or response.status_code != 200:
            return
        one.is_kept = True
        # Those that are there now were there when the hold was applied.
        one.screens = [screen for screen in before if await self.read(screen) is not None]
        await asyncio.sleep(random.uniform(0, 1))
        response = await self.ask("admin", "POST", f"/api/v2/recordings/{one.id}/labels", json={"name": LABEL})
        one.is_labelled = response is not None and response.is_success
        for number in range(random.randrange(3)):
            one.urls = [*one.urls, *self._urls[-1:]]
            if await self.post(one, **{f"update{number}": "kept"}):
                one.updates.append(f"update{number}")

    @staticmethod
    def _is_along(other: Known, one: Known) -> bool:
        return other.resource == "screen-recordings" and other.call == one.call and other.acknowledged > 0

    async def churn(self) -> None:
        """Applies and lifts a hold of another, on a call of those that are held for good."""
        one = await self.record()
        if one.resource == "recordings":
            for operation in (APPLY, UNAPPLY):
                await self.ask("admin", "POST", f"/api/v2/recordings/{one.id}", json=operation)

    async def delete(self) -> None:
        resource = random.choice(list(PATHS))
        one = self.some(resource)
        if one is None:
            return
        was_kept = one.is_kept
        response = await self.ask("ops", "DELETE", f"{PATHS[resource]}/{one.id}", params=ALL)
        if response is not None and response.status_code == 200:
            self.deleted.add((resource, one.id))
            if was_kept:
                self.violations.append(f"{one.id} was held, and is deleted: {response.text}")

    async def operate(self) -> None:
        """Operations on many, also on what is held for good, but for lifting that."""
        found = [one.id for one in (self.some("recordings") for _ in range(20)) if one is not None]
        lifted = [one for one in found if self.known["recordings", one].may_be_lifted]
        body = random.choice(
            (
                {"operationName": "delete", "subresources": "*", "recordings": found},
                {"operationName": "delete", "subresources": "*", "criteria": {"nonDelete": "true"}},
                {"operationName": "delete", "subresources": "*", "criteria": {"startTime": "0"}},
                {"operationName": "unapplyNonDelete", "recordings": lifted},
                {"operationName": "applyNonDelete", "recordings": found},
                {"operationName": "addLabel", "label": LABEL, "criteria": {"startTime": "0"}},
            )
        )
        if body.get("recordings") != []:
            await self.ask("ops", "POST", OPS_PATH.replace("/recordings", "/recording-operations"), json=body)
        await asyncio.sleep(random.uniform(0.5, 2))

    async def kill(self) -> None:
        await asyncio.sleep(random.uniform(*_PAUSES))
        app = random.choice(self._apps)
        await app.kill()
        self.kills += 1
        await app.start()

    # --- What must be so at the end ---

    async def read(self, one: Known) -> dict[str, Any] | None:
        response = None
        while response is None or response.status_code not in {200, 404}:
            response = await self.ask("ops", "GET", f"{PATHS[one.resource]}/{one.id}")
        body: dict[str, Any] = response.json()
        return body.get("recording", body.get("screenRecording"))

    async def judge(self, lines: list[dict[str, Any]]) -> None:
        for one in self.known.values():
            stored = await self.read(one)
            if one.is_kept:
                self._judge_kept(one, stored)
                for screen in one.screens:
                    if (found := await self.read(screen)) is None or not found.get("nonDelete"):
                        self.violations.append(f"{screen.id} was taken along by {one.id}, and is {found and 'free'}")
            if stored is not None and one.acknowledged:
                self._judge_media(one)
        told = {line["media"] for line in lines if line["operation"] == "delete-media"}
        for target in self._storage.deleted:
            url = f"{self._storage.origin}{target}"
            if told.isdisjoint(self.all_urls[url]):
                self.violations.append(f"{url} was deleted without a line in the audit log")

    def _judge_kept(self, one: Known, stored: dict[str, Any] | None) -> None:
        if stored is None:
            self.violations.append(f"{one.id} was held, and is lost")
        elif not stored.get("nonDelete"):
            self.violations.append(f"{one.id} has lost its hold")
        elif one.is_labelled and not stored.get("labels"):
            self.violations.append(f"{one.id} has lost its label")
        elif lost := [name for name in one.updates if stored.get(name) != "kept"]:
            self.violations.append(f"{one.id} has lost {lost}")

    def _judge_media(self, one: Known) -> None:
        for url in one.urls:
            gone = self._storage.deleted.get(url.removeprefix(self._storage.origin), 0.0)
            if gone > one.acknowledged:
                self.violations.append(f"{one.id} (kept: {one.is_kept}) refers to {url}, which was deleted since")


async def _again(work: Callable[[], Awaitable[object]], until: float, pause: float) -> None:
    while asyncio.get_running_loop().time() < until:
        await work()
        await asyncio.sleep(random.uniform(0, pause))


@pytest.fixture
async def storage() -> AsyncIterator[Storage]:
    async with Storage() as server:
        yield server


async def test_nothing_that_is_held_or_referred_to_is_lost(
    settings: Settings, storage: Storage, tmp_path: Path
) -> None:
    audit = tmp_path / "audit.jsonl"
    changed = msgspec.structs.replace(
        settings, storage=StorageConfig(webdav=(storage.config,)), audit_log=str(audit), lease_seconds=3
    )
    (tmp_path / "rules.toml").write_text(_RULES)
    scripts = Scripts(changed, tmp_path)
    apps = [AppProcess(changed, tmp_path) for _ in range(3)]
    purge = (
        "purge.py",
        "--older-than",
        "1d",
        "--contact-center",
        CONTACT_CENTER,
        "--with-media",
        "--yes",
        "--rate",
        "10",
    )
    commands: list[tuple[str, ...]] = [
        (*purge, "--missing-media-ok"),
        (*purge, "--missing-media-ok", "--screen-recordings"),
        ("retention.py", "run", "rules.toml", "--rate", "10"),
        ("sweep_media.py", "--missing-media-ok"),
    ]

    async def command() -> None:
        """Runs one of the commands, and kills every other one."""
        process = await scripts.start(*random.choice(commands))
        with suppress(TimeoutError):
            async with asyncio.timeout(random.choice((1.5, 60))):
                await process.wait()
        if process.returncode is None:
            process.kill()
        out, err = await process.communicate()
        status = process.returncode
        campaign.statuses[f"command {status}"] += 1
        if b"Traceback" in err:
            campaign.violations.append(f"{out.decode()} {err.decode()}")

    async with AsyncExitStack() as stack:
        for app in apps:
            stack.push_async_callback(app.stop)
        await asyncio.gather(*(app.start() for app in apps))
        campaign = Campaign(apps, storage)
        stack.push_async_callback(campaign.close)
        definition = await campaign.ask("admin", "POST", "/api/v2/recording-label-definitions", json={"name": LABEL})
        assert definition is not None
        assert definition.status_code == 201
        until = campaign.now() + EVIDENCE_SECONDS
        async with asyncio.TaskGroup() as group:
            works: list[tuple[Callable[[], Awaitable[object]], float]] = [
                (campaign.record, 0.1),
                (campaign.keep, 0.1),
                (campaign.keep, 0.1),
                (campaign.churn, 0.1),
                (campaign.delete, 0.1),
                (campaign.delete, 0.1),
                (campaign.operate, 0.5),
                (campaign.kill, 0.5),
                (command, 0.5),
                (command, 0.5),
            ]
            for work, pause in works:
                group.create_task(_again(work, until, pause))

        async def is_quiet() -> bool:
            """Whether no operation runs any more, and no process has deletions to do."""
            response = await campaign.ask("ops", "GET", OPS_PATH.replace("/recordings", "/recording-operations"))
            if response is None or any(one["state"] == "running" for one in response.json().get("operations", ())):
                return False
            status, _, _ = await scripts.run("sweep_media.py", "--missing-media-ok")
            return status == 0

        await eventually(is_quiet, seconds=120 + EVIDENCE_SECONDS)
        await campaign.judge([json.loads(line) for line in audit.read_bytes().splitlines()])
        assert not campaign.violations, "\n".join([str(campaign), *campaign.violations[:30]])
        assert any(one.is_kept for one in campaign.known.values())
        assert storage.deleted
        assert campaign.kills
