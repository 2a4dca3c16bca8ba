"""Recordings as a busy contact center would post them: made up, and for one seed always the same.

Each recording has its own random generator, seeded with its number. So any part of a sample can be made without the
rest, and a larger sample begins with the smaller one.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from itertools import accumulate
from random import Random
from typing import Any

from app.recordings.dates import parse_instant
from app.recordings.labels import Label, LabelDefinition, Labels, with_label
from app.recordings.model import Recording

DEMO_CONTACT_CENTER = "a5539ef5-7dd5-4150-818f-ee1bcd447cbe"

_FIRST_NAMES = (
    "Alice", "Amber", "Ana", "Andrej", "Åsa", "Aylin", "Björn", "Brigitte", "Carlos", "Chloé", "Dima", "Elena",
    "Émile", "François", "Giulia", "Grace", "Günther", "Hannah", "Ingrid", "İbrahim", "Ivan", "Jana", "Jens",
    "Jérôme", "Joaquín", "José", "Kateřina", "Kenji", "Lars", "Łukasz", "Magnus", "Małgorzata", "Marta", "Mehmet",
    "Mei", "Mikko", "Niamh", "Noémie", "Oğuz", "Olga", "Oskar", "Paolo", "Priya", "Rachel", "Renée", "Rosa", "Ryan",
    "Sára", "Siobhán", "Søren", "Tomás", "Ümit", "Victor", "Wei", "Xavier", "Yuki", "Zoë", "Žofia", "Анна", "Дмитрий",
    "Ελένη", "Γιώργος",
)  # fmt: skip
_LAST_NAMES = (
    "Ångström", "Baker", "Bianchi", "Björklund", "Brown", "Castañeda", "Chen", "Costa", "Çelik", "Dąbrowski",
    "Dvořák", "Eriksson", "Fernández", "Fischer", "Fonseca", "García", "Großmann", "Hansen", "Hoffmann", "Ibáñez",
    "Ivanova", "Jansen", "Johansson", "Kaya", "Kovács", "Kowalczyk", "Krüger", "Laurent", "Lefèvre", "Lindqvist",
    "López", "Møller", "Müller", "Muñoz", "Nakamura", "Ní-Bhriain", "Novák", "Nowak", "O'Brien", "Okafor",
    "Øvergaard", "Papadopoulos", "Patel", "Peña", "Petrov", "Pokh", "Quiñones", "Rossi", "Rönnberg", "Sanchez",
    "Şahin", "Schäfer", "Singh", "Smith", "Sørensen", "Svensson", "Tanaka", "Thompson", "Toth", "Ulloa", "Vaşcu",
    "Virtanen", "Wagner", "Walsh", "Weiß", "Wójcik", "Güneş", "Zhang", "Žižek", "Иванов", "Павлова", "Νικολάου",
)  # fmt: skip
_SECOND_WORDS = ("Marie", "Luis", "Maria", "Jo", "Van Dyk", "de la Cruz")

# Country and area code, and how many digits follow.
_NUMBER_RANGES = (
    ("+1650", 7), ("+1415", 7), ("+1212", 7), ("+1512", 7), ("+1303", 7), ("+44207946", 4), ("+44161", 7),
    ("+4930", 8), ("+4989", 7), ("+331", 8), ("+34915", 6), ("+3906", 8), ("+4522", 6), ("+468", 7), ("+420", 9),
    ("+4822", 7), ("+9122", 8), ("+8133", 8), ("+551199", 7), ("+61291", 6),
)  # fmt: skip
_QUEUES = (
    "Billing", "Billing Disputes", "Sales", "Renewals", "Technical Support", "Technical Support Level 2",
    "Claims", "Lost and Stolen", "Complaints", "Retention", "Onboarding", "Collections",
)  # fmt: skip
_DISPOSITIONS = ("resolved", "call back", "escalated", "wrong number", "no answer", "voicemail", "sale", "abandoned")
_LANGUAGES = ("en-US", "en-GB", "de-DE", "fr-FR", "es-ES", "it-IT", "pl-PL", "cs-CZ", "sv-SE", "ja-JP", "pt-BR")
_TIERS = ("bronze", "silver", "gold", "platinum")
_PRODUCTS = ("Fiber 500", "Mobile S", "Mobile XL", "TV Basic", "Home Insurance", "Travel Card", "Router WX-3000")
_TENANTS = ("Environment", "Resources")
_PROFILES = ("DefaultProfile", "SalesProfile", "SupportProfile")
_PARTITIONS = ("part1", "part2", "emea", "americas", "apac", "pci")
BUCKETS = ("stage-recordings", "eu-recordings")
WEBDAV_URLS = ("http://media-1.example.net:8080/recordings", "https://media-2.example.net/recordings")

SAMPLE_LABELS = (
    LabelDefinition("complaint", "Complaint", "The customer complains."),
    LabelDefinition("coaching", "Coaching", "An example for the training of agents."),
    LabelDefinition("Legal.Hold", "Legal hold", "Needed in a dispute; protect it too."),
    LabelDefinition("quality-2", "Quality, second review"),
    LabelDefinition("sale", "Sale"),
)
_COMMENTS = ("", "", "see the ticket", "asked twice for a call back", "für die Schulung", "ok")

# How busy each hour of a working day is.
_HOURS = tuple(accumulate((1, 1, 1, 1, 1, 2, 5, 12, 40, 80, 95, 90, 60, 75, 90, 90, 80, 60, 25, 12, 8, 5, 3, 2)))
_DAYS = 730

# The characters of Genesys's ids.
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUV"

# Letters that NFKD does not decompose. An e-mail address has to be ASCII.
_ASCII = str.maketrans({"ø": "o", "ß": "ss", "ł": "l", "đ": "d"})


@dataclass(frozen=True)
class _Agent:
    contact: dict[str, str]
    groups: list[str]
    extension: str
    zone: timezone


@dataclass(frozen=True)
class _Customer:
    phone_number: str
    email: str
    account: str
    language: str


def sample_recordings(
    count: int,
    *,
    region: str,
    seed: int = 1,
    contact_center: str = DEMO_CONTACT_CENTER,
    first: int = 0,
    until: datetime | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields recordings `first` to `first + count` of the sample, as a client posts them.

    They began in the two years before `until` (default: the beginning of today), which alone tells two samples of
    the same seed apart. `contact_center` only shows in the paths of the media.
    """
    sample = _sample(seed, region, contact_center, until or start_of_today())
    return (sample.recording(number) for number in range(first, first + count))


def sample_labels(recording: Recording, *, seed: int = 1) -> Labels:
    """Returns the labels of a recording of the sample in its stored form. Half of all have some."""
    random = Random(f"{seed}/labels/{recording['id']}")
    labels: Labels = ()
    for definition in random.sample(SAMPLE_LABELS, random.choice((0, 0, 1, 2))):
        label = Label(
            name=definition.name,
            display_name=definition.display_name,
            by=random.choice(("admin", "supervisor")),
            at=parse_instant(recording["stopTime"]) + random.randrange(1, 10 * 86_400_000),
            given=f"{random.getrandbits(128):032x}",
            comment=random.choice(_COMMENTS),
        )
        labels = with_label(labels, label)
    return labels


def start_of_today() -> datetime:
    """Returns midnight UTC, so that all samples of one day are the same."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


@lru_cache(4)
def _sample(seed: int, region: str, contact_center: str, until: datetime) -> "_Sample":
    return _Sample(seed, region, contact_center, until)


class _Sample:
    def __init__(self, seed: int, region: str, contact_center: str, until: datetime) -> None:
        self._seed = seed
        self._region = region
        self._folder = contact_center
        self._until = until
        random = Random(f"{seed}")
        self._agents = [_agent(random, number) for number in range(300)]
        self._service_numbers = [_phone_number(random) for _ in range(40)]
        # One value for each start of each recording server.
        self._id_prefixes = [_letters(random, 26) for _ in range(8)]
        self._customer = lru_cache(10_000)(self._make_customer)

    def recording(self, number: int) -> dict[str, Any]:
        random = Random(f"{self._seed}/{number}")
        # Half of the calls are a customer's first call.
        customer = self._customer(number if random.random() < 0.5 else random.randrange(number + 1))
        agents = random.sample(self._agents, 2 if random.random() < 0.2 else 1)
        recording_id = f"{random.choice(self._id_prefixes)}{_base32(number, 6)}"
        begin = _start(random, self._until, agents[0].zone)
        seconds = 5 + round(random.expovariate(1 / 240))
        caller, dialed = self._parties(random, customer, agents[0])
        recording: dict[str, Any] = {
            "id": recording_id,
            "callerPhoneNumber": caller,
            "dialedPhoneNumber": dialed,
            "region": self._region,
            "mediaFiles": self._media_files(random, recording_id, agents, begin, seconds),
            "eventHistory": _events(random, customer, agents, begin, seconds),
        }
        return recording

    def _parties(self, random: Random, customer: _Customer, agent: _Agent) -> tuple[str, str]:
        kind = random.random()
        if kind < 0.72:
            return customer.phone_number, random.choice(self._service_numbers)
        if kind < 0.92:
            return random.choice(self._service_numbers), customer.phone_number
        return agent.extension, random.choice(self._agents).extension

    def _make_customer(self, number: int) -> _Customer:
        random = Random(f"{self._seed}/customer/{number}")
        first, last = random.choice(_FIRST_NAMES), random.choice(_LAST_NAMES)
        return _Customer(
            phone_number=f"sip:{_ascii(first)}{number}@voice.example.com"
            if random.random() < 0.04
            else _phone_number(random),
            email=f"{_ascii(first)}.{_ascii(last)}{random.randrange(1000)}@mail{random.randrange(20)}.example.com",
            account=f"AC{random.randrange(10**9):09}",
            language=random.choice(_LANGUAGES),
        )

    def _media_files(
        self, random: Random, recording_id: str, agents: list[_Agent], begin: datetime, seconds: int
    ) -> list[dict[str, Any]]:
        """Returns consecutive media files, as when a call is held or transferred."""
        count = random.choices((1, 2, 3), (70, 22, 8))[0]
        call_uuid = _letters(random, 32)
        bounds = [begin + timedelta(seconds=seconds * i / count) for i in range(count + 1)]
        return [
            self._media_file(random, recording_id, call_uuid, agents[i % len(agents)], (bounds[i], bounds[i + 1]))
            for i in range(count)
        ]

    def _media_file(
        self, random: Random, recording_id: str, call_uuid: str, agent: _Agent, span: tuple[datetime, datetime]
    ) -> dict[str, Any]:
        begin, end = span
        mp3 = random.random() < 0.7
        milliseconds = round((end - begin) / timedelta(milliseconds=1))
        media_id = f"{recording_id}_{_letters(random, 32)}.{'mp3' if mp3 else 'wav'}"
        media: dict[str, Any] = {
            "startTime": _date(begin),
            "stopTime": _date(end),
            "callUUID": call_uuid,
            "mediaDescriptor": self._descriptor(random, f"{begin:%Y/%m/%d}/{media_id}"),
            "mediaId": media_id,
            "type": "audio/mpeg" if mp3 else "audio/wav",
            "duration": str(milliseconds),
            "size": str(milliseconds * (4 if mp3 else 16) + 44),
            "tenant": random.choice(_TENANTS),
            "ivrprofile": random.choice(_PROFILES),
            "parameters": {"record": "source", "recorddn": agent.extension, "callType": "ACD"},
            "partitions": random.sample(_PARTITIONS, random.randint(1, 2)),
            "accessgroups": agent.groups,
        }
        if random.random() < 0.1:
            media["masks"] = [
                {"time": _date(begin + (end - begin) / 3), "type": "paused"},
                {"time": _date(begin + (end - begin) / 2), "type": "resume"},
            ]
        return media

    def _descriptor(self, random: Random, path: str) -> dict[str, Any]:
        if random.random() < 0.75:
            data = {"bucket": random.choice(BUCKETS)}
            return {"storage": "awsS3", "path": f"{self._folder}/{path}", "data": data}
        return {"storage": "webDAV", "path": f"{random.choice(WEBDAV_URLS)}/{self._folder}/{path}"}


def _events(
    random: Random, customer: _Customer, agents: list[_Agent], begin: datetime, seconds: int
) -> list[dict[str, Any]]:
    """Returns two to six events in order. Occasionally a customer's joining or leaving is missing."""
    external = {"type": "External", "phoneNumber": customer.phone_number}
    steps: list[tuple[dict[str, str], str, dict[str, Any] | None]] = []
    if random.random() < 0.9:
        steps.append((external, "Joined", None))
    for agent in agents:
        steps.append((agent.contact, "Joined", _user_data(random, customer, begin)))
        steps.append((agent.contact, "Left", {"disposition": random.choice(_DISPOSITIONS)}))
    if random.random() < 0.9:
        steps.append((external, "Left", None))
    events = []
    for i, (contact, what, data) in enumerate(steps):
        occurred = _date(begin + timedelta(seconds=seconds * i / (len(steps) - 1)))
        event: dict[str, Any] = {"occurredAt": occurred, "contact": contact, "event": what}
        if data is not None:
            event["data"] = data
        events.append(event)
    return events


def _user_data(random: Random, customer: _Customer, begin: datetime) -> dict[str, Any]:
    data: dict[str, Any] = {
        "caseNumber": f"CASE-{begin.year}-{random.randrange(10**7):07}",
        "customerEmail": customer.email,
        "language": customer.language,
        "queue": random.choice(_QUEUES),
        "waitSeconds": random.randrange(600),
    }
    if random.random() < 0.5:
        data["orderId"] = f"ORD-{_letters(random, 4)}-{random.randrange(10**6):06}"
    if random.random() < 0.15:
        data["crm"] = {
            "account": customer.account,
            "tier": random.choice(_TIERS),
            "vip": random.random() < 0.1,
            "products": random.sample(_PRODUCTS, random.randint(1, 3)),
        }
    return data


def _agent(random: Random, number: int) -> _Agent:
    first, last = random.choice(_FIRST_NAMES), random.choice(_LAST_NAMES)
    if random.random() < 0.08:
        first = f"{first} {random.choice(_SECOND_WORDS)}"
    extension = str(random.randrange(1000, 9999)) if random.random() < 0.8 else f"sip:agent{number}@pbx.example.com"
    contact = {
        "type": "User",
        "phoneNumber": extension if random.random() < 0.5 else _phone_number(random),
        "userName": f"{_ascii(first)}.{_ascii(last)}{number}@example.com",
        "firstName": first,
        "lastName": last,
    }
    country = random.choice(("US", "DE", "UK", "CZ", "IN"))
    hours = random.choice((-480, -300, 0, 60, 120, 330))
    groups = [country, f"{country}/{random.choice(('North', 'South', 'East', 'West'))}"]
    return _Agent(contact, groups, extension, timezone(timedelta(minutes=hours)))


def _phone_number(random: Random) -> str:
    prefix, digits = random.choice(_NUMBER_RANGES)
    return f"{prefix}{random.randrange(10**digits):0{digits}}"


def _start(random: Random, until: datetime, zone: timezone) -> datetime:
    """Returns a time in the two years before `until`: mostly in office hours of the zone, rarely on a weekend."""
    day = until - timedelta(days=random.randrange(2, _DAYS))
    if day.weekday() >= 5 and random.random() < 0.85:
        day -= timedelta(days=2)
    hour = random.choices(range(24), cum_weights=_HOURS)[0]
    return day.replace(hour=hour, tzinfo=zone) + timedelta(milliseconds=random.randrange(3_600_000))


def _date(moment: datetime) -> str:
    """Returns a date in the form of the reference document: `2013-05-17T11:45:32.000-0800`."""
    text = moment.isoformat(timespec="milliseconds")
    return text[:-3] + text[-2:]


def _letters(random: Random, count: int) -> str:
    return _base32(random.getrandbits(5 * count), count)


def _base32(number: int, width: int) -> str:
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(5 * (width - 1), -1, -5))


def _ascii(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name.lower().translate(_ASCII))
    letters = "".join(letter for letter in plain if letter.isascii() and letter.isalpha())
    # Names in another script.
    return letters or f"user{sum(map(ord, name)) % 10_000}"
