"""What the API finds is what tests/support/oracle.py finds, for random recordings, users, labels and queries.

A failure prints the query, the recordings that differ and, in the big worlds, the seed.
RECALL_SEEDS="17 18" replays those seeds, or tries other ones.
"""

import asyncio
import itertools
import math
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from random import Random
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit
from uuid import uuid4

import httpx
import hypothesis
import pytest
from elasticsearch import AsyncElasticsearch
from hypothesis import strategies

from app.settings import Settings, User
from tests.support import oracle
from tests.support.oracle import EVERYBODY, Number, Recording, Stored, Viewer
from tests.support.recordings import CONTACT_CENTER, OTHER_CONTACT_CENTER, REGION, a_media_file, a_recording, an_event
from tests.support.service import PATIENT, USERS, Service, StartService, basic, hash_password
from tests.support.sizes import (
    BIG_WORLD_RECORDINGS,
    BIG_WORLD_SEARCHES,
    BIG_WORLDS,
    PART_OF_SPECIAL_SEARCHES,
    SMALL_WORLDS,
)

SEEDS = [int(seed) for seed in os.environ.get("RECALL_SEEDS", " ".join(map(str, range(1, BIG_WORLDS + 1)))).split()]
OTHER_REGION = "Test"
LONGEST = 5000  # characters of a parameter, and of what is posted to be found by it
MOST_SHORT_WORDS = 2

# --- Texts ----------------------------------------------------------------------------------------

# Each group holds characters that some implementation takes for special, or folds or orders in its own way.
PLAIN = ("a", "b", "A", "B", "1", "2")
SYNTAX = tuple("*?\\[]\"'(){}/|.+-~^&%#@<>=!:,;$_`")
SPACES = (" ", "\t", "\n", "\u000b", "\u001c", "\u001f", "\u0085", "\u00a0", "\u2003", "\u2028", "\u3000")
CASED = tuple("İıIißẞsSﬁﬃfΣσςÅåÅKKkſᏸᏰᎠꭰŉΐǅǆǄʰΩωΩԱևЙй𐐀𐐨")
COMBINING = ("e\u0301", "é", "\u0301", "i\u0307", "\u0307", "각", "\u1100\u1161\u11a8", "ͅ", "ά", "\u0345")
EMOJI = ("😀", "👩\u200d👩\u200d👧", "🏳\ufe0f\u200d🌈", "👍🏽", "👍", "🇩🇪", "\u200d", "\ufe0f")
CONTROL = ("\u0000", "\u0001", "\u0002", "\u0003", "\u0008", "\u001b", "\u007f", "\u0080")
# What an index may use for its own marks: noncharacters, private use, invisible and last characters.
MARKS = (
    *(chr(code) for code in range(0xFDD0, 0xFDF0)),
    *("\ufffe", "\uffff", "\U0001fffe", "\U0010ffff", "\ufffd", "\ufffc", "\ue000", "\uf8ff", "\U000f0000"),
    *("\ufeff", "\u200b", "\u00ad", "\u2060", "\u180e", "\u061c"),
)
# What Unicode takes for another spelling of something else: full-width, ligatures, marks out of order, invisible.
ALIKE = (
    *(
        "＊",
        "＋",
        "１",
        "ａ",
        "Ａ",
        "？",
        "²",
        "①",
        "Ⅷ",
        "ﬀ",
        "ﷺ",
        "㎏",
        "ｱ",
        "ﾞ",
        "ガ",
        "¨",
        "…",
        "℡",
        "⁺",
        "٣",
        "İ",
        "ı",
    ),
    *(
        "a\u0323\u0307",
        "a\u0307\u0323",
        "ạ\u0307",
        "i\u0307\u0301",
        "ı\u0307",
        "I\u0307",
        "n\u0303",
        "Å",
        "가",
        "\u1112\u1161",
    ),
    *("\u202a", "\u202c", "\u200e", "\u200f", "\u2066", "\u034f", "\u3164", "\u115f", "\U000e0041", "\u0600", "\u2011"),
)
GROUPS = (PLAIN, PLAIN, SYNTAX, CASED, COMBINING, EMOJI, SPACES, MARKS, CONTROL, ALIKE, ALIKE)
FAMILIAR = (
    *("Dima", "Pokh", "dima.p@genesys.com", "Alice", "Amber", "ALICE", "Straße", "STRASSE", "İstanbul", "and"),
    *("José", "Jose\u0301", "istanbul", "ISTANBUL", "Işık", "ISIK", "ﬁﬁ", "+１６５０", "\u202a+1650\u202c"),
    *("ΣΑΣ", "σας", "ﬁn", "FIN", "Én", "e\u0301n", "ÅSA", "İ", "Kim", "ŉ", "ꮥᏕ"),
    *("+16504668888", "+14155551234", "UNKNOWN", "true", "null", "1.10", "AND", "tom jerry", 'O\'Brien "Bob"'),
)
NUMBERS = ("0", "1", "1.10", "1.1", "1e5", "1E+5", "100000", "-0.0", "12345678901234567890123", "3.25e-7")

LABELS = ("Court", "court-2", "COURT_3.a", "-", "k", "Legal.Hold", "legal", "aabab", "x" * 64)

# Of access groups and partitions, and the names of the users that they limit.
PATH_PARTS = ("US", "CA", "us", "U S", "é", "e\u0301", "x" * 300)
USER_NAMES = ("amy", "AMY", "Ämy", "ämy", "A\u0308my", "ｂob", "bob", "carl", "İda", "ıda")
LIMITED_USERS = 24

DAY = 86_400_000
NOON = 1368792000000  # 2013-05-17T12:00:00Z
INSTANTS = (NOON, NOON, NOON, NOON + 1, NOON - 1, NOON + 500, NOON + 60_000, NOON - NOON % DAY, 0, -1, 1)


@dataclass
class Vocabulary:
    """Few pieces of few characters, so that different texts share parts, as trigrams do."""

    rng: Random
    characters: list[str] = field(init=False)
    pieces: list[str] = field(init=False)

    def __post_init__(self) -> None:
        rng = self.rng
        groups = [rng.choice(GROUPS) for _ in range(rng.randint(1, 3))]
        self.characters = [rng.choice(group) for group in groups for _ in range(rng.randint(1, 4))]
        self.pieces = ["".join(self._some_characters(6)) for _ in range(rng.randint(2, 6))]

    def _some_characters(self, most: int) -> list[str]:
        return [self.rng.choice(self.characters) for _ in range(self.rng.randint(1, most))]

    def text(self) -> str:
        """Any text, the empty one and white space too."""
        rng = self.rng
        match rng.randrange(16):
            case 0 | 1 | 2:
                return rng.choice(self.characters) * rng.choice((1, 1, rng.randint(2, 12)))
            case 3:
                return rng.choice(FAMILIAR)
            case 4:
                return ""
            case 5:
                return " ".join(rng.choice((*FAMILIAR, *self.pieces)) for _ in range(rng.randint(2, 4)))
            case 6 | 7:
                separator = rng.choice((" ", "  ", rng.choice(SPACES)))
                return separator.join(rng.choice(self.pieces) for _ in range(rng.randint(2, 4)))
            case _:
                return "".join(rng.choice(self.pieces) for _ in range(rng.randint(1, 5)))

    def long_text(self) -> str:
        """The longest: one character again and again, or pieces, with at most a little in between."""
        rng = self.rng
        piece = rng.choice((rng.choice(self.characters), rng.choice(self.pieces), "".join(self._some_characters(300))))
        at = rng.randint(0, LONGEST)
        return ((piece * LONGEST)[:at] + rng.choice(self.pieces) + piece * LONGEST)[:LONGEST]

    def trimmed(self, *, long: bool = False) -> str:
        """A text that is allowed where white space at the ends and the empty text are not."""
        text = self.long_text() if long else self.text()
        return text.strip() or self.rng.choice(("x", "0", "é"))

    def number(self, *, long: bool = False) -> str:
        """A text that is allowed as a phone number, of which something must be visible."""
        text = self.trimmed(long=long)
        return text if oracle.number_form(text) else f"+1{text}"


# --- Recordings -----------------------------------------------------------------------------------


@dataclass
class Recordings:
    """Makes random recordings.

    `long` is how often a value has 5,000 characters, `placed` how often a media file has access groups or partitions.
    """

    rng: Random
    vocabularies: Sequence[Vocabulary]
    long: float = 0
    placed: float = 0

    def one(self, recording_id: str, region: str) -> Recording:
        rng = self.rng
        words = rng.choice(self.vocabularies)
        return a_recording(
            recording_id,
            callerPhoneNumber=words.number(long=self._is_long()),
            dialedPhoneNumber=words.number(),
            region=region,
            mediaFiles=[self._media_file(words, n) for n in range(rng.choice((1, 1, 2, 3)))],
            eventHistory=[self._event(words) for _ in range(rng.choice((1, 1, 2, 3)))],
        )

    def recording_id(self, number: int) -> str:
        # The number last, so that the order of ids depends on the odd characters; 400 bytes at most.
        return f"{self.rng.choice(self.vocabularies).text()[:40].lstrip()}-{number}"

    def _places(self) -> dict[str, Any]:
        """Access groups and partitions of a media file."""
        rng = self.rng
        if self.placed == 0 or rng.random() > self.placed:
            return {}
        names = rng.sample(("accessgroup", "accessgroups", "partitions"), rng.choice((1, 1, 2, 3)))
        return {name: some_paths(rng) or rng.choice(([], None)) for name in names}

    def _is_long(self) -> bool:
        return self.long > 0 and self.rng.random() < self.long

    def _media_file(self, words: Vocabulary, number: int) -> dict[str, Any]:
        return a_media_file(
            f"{number}.mp3",
            startTime=self.rng.choice(oracle.spellings(self.rng.choice(INSTANTS))),
            stopTime=self.rng.choice(oracle.spellings(self.rng.choice(INSTANTS) + self.rng.choice((0, 1, 7_000)))),
            callUUID=words.trimmed(),
            mediaId=self.rng.choice((None, "", words.text(), words.trimmed())),
            **self._places(),
        )

    def _event(self, words: Vocabulary) -> dict[str, Any]:
        rng = self.rng
        event: dict[str, Any] = {
            "occurredAt": rng.choice(oracle.spellings(rng.choice(INSTANTS))),
            "contact": {"type": "External", "phoneNumber": rng.choice(("UNKNOWN", "+1", "+2", words.number()))},
            "event": rng.choice(("Joined", "Left")),
        }
        if rng.random() < 0.6:
            event["contact"]["type"] = "User"
            for name in ("userName", "firstName", "lastName"):
                event["contact"][name] = words.trimmed(long=self._is_long())
            if rng.random() < self.placed / 3:
                event["contact"]["userName"] = rng.choice(USER_NAMES)
        else:
            for name in ("userName", "firstName", "lastName"):
                if rng.random() < 0.5:
                    event["contact"][name] = rng.choice((words.text(), words.text(), None))
        if rng.random() < 0.7:
            event["data"] = {words.text(): self._data_value(words, 3) for _ in range(rng.randint(0, 3))}
        return event

    def _data_value(self, words: Vocabulary, depth: int) -> Any:
        rng = self.rng
        if depth and rng.random() < 0.3:
            inner = [self._data_value(words, depth - 1) for _ in range(rng.randint(0, 3))]
            return rng.choice((inner, {words.text(): value for value in inner}))
        if rng.random() < 0.3:
            return rng.choice((*(Number(text) for text in NUMBERS), True, False, None))
        return words.long_text() if self._is_long() else words.text()


# --- Users ----------------------------------------------------------------------------------------


def a_path(rng: Random) -> str:
    inner = "/".join(rng.choice(PATH_PARTS) for _ in range(rng.choice((0, 1, 1, 2, 3))))
    return rng.choice(("", "/")) + inner + rng.choice(("", "/")) or "/"


def some_paths(rng: Random) -> list[str]:
    return [a_path(rng) for _ in range(rng.choice((0, 1, 1, 2, 3)))]


def a_viewer(rng: Random, name: str) -> Viewer:
    """A user whom something limits."""
    while True:
        groups = tuple(some_paths(rng)) if rng.random() < 0.6 else ()
        partitions = tuple(some_paths(rng)) if rng.random() < 0.4 else ()
        viewer = Viewer(name, groups, partitions, own_recordings=rng.random() < 0.4)
        if groups or partitions or viewer.own_recordings:
            return viewer


def a_user_for(rng: Random, viewer: Viewer) -> User:
    return User(
        viewer.name,
        hash_password(f"{viewer.name}-password"),
        roles=(rng.choice(("admin", "supervisor", "agent")),),
        contact_center=CONTACT_CENTER,
        access_groups=viewer.access_groups,
        partitions=viewer.partitions,
        own_recordings=viewer.own_recordings,
    )


# --- Queries --------------------------------------------------------------------------------------


@dataclass
class Queries:
    """Makes random queries out of the values of stored recordings."""

    rng: Random
    stored: Sequence[Stored]

    def one(self) -> dict[str, str]:
        """Several criteria mostly come from one recording, or they would hardly ever meet."""
        while True:
            query = self._one()
            if words_with_short_inner_parts(query) <= MOST_SHORT_WORDS:
                return query

    def _one(self) -> dict[str, str]:
        rng = self.rng
        stored = rng.choice(self.stored)
        if rng.random() > 0.9:
            return self._all_criteria(stored)
        names = list(oracle.CRITERIA)
        rng.shuffle(names)
        query = {}
        for name in names[: rng.choice((1, 1, 1, 2, 3))]:
            query[name] = self._criterion(name, rng.choice((stored, stored, stored, rng.choice(self.stored))))
        return query

    def _all_criteria(self, stored: Stored) -> dict[str, str]:
        """All criteria that a recording can meet, mostly with values that it does."""
        query = {}
        for name, meets in oracle.CRITERIA.items():
            for _ in range(20):
                value = self._criterion(name, stored)
                with suppress(oracle.InvalidParameter):
                    if len(value) < 100 and meets(stored.searchable, value):
                        query[name] = value
                        break
        return query

    def _criterion(self, name: str, stored: Stored) -> str:
        rng, values, recording = self.rng, stored.searchable, stored.recording
        media_files = recording["mediaFiles"]
        makers: dict[str, Callable[[], str]] = {
            "callerPhoneNumber": lambda: self._bounded([values.caller_phone_number, recording[name]]),
            "dialedPhoneNumber": lambda: self._bounded([values.dialed_phone_number, recording[name]]),
            "phoneNumber": lambda: self._bounded([*values.phone_numbers, *oracle.phone_numbers(recording)]),
            "startTime": lambda: self._instant(values.start_time),
            "endTime": lambda: self._instant(values.stop_time),
            "minDuration": lambda: self._seconds(oracle.duration(values)),
            "maxDuration": lambda: self._seconds(oracle.duration(values)),
            "userName": lambda: self._bounded(list(oracle.names(recording)), (" AND ", " ", " AND  AND ", "\tAND\n")),
            "userData": lambda: self._user_data(stored),
            "label": lambda: self._label(values.labels),
            "nonDelete": lambda: rng.choice(("true", "true", "false", "True")),
            "callUUID": lambda: self._exact([media_file["callUUID"] for media_file in media_files]),
            "mediaId": lambda: self._exact([media_file.get("mediaId") for media_file in media_files]),
        }
        return makers[name]()

    def _label(self, labels: Sequence[str]) -> str:
        # Mostly of names that some recording has, or hardly any query would find one.
        others = (*labels, *LABELS) if self.rng.random() < 0.8 else FAMILIAR
        return self._bounded([*others], (" AND ", " ", " AND ", "\tAND\n"))

    def _instant(self, near: int) -> str:
        at = self.rng.choice((near, near - 1, near + 1, near - near % DAY, near + 3_600_000, 0))
        return self.rng.choice(oracle.queried_spellings(at))

    def _user_data(self, stored: Stored) -> str:
        rng, values = self.rng, stored.searchable
        if values.data and rng.random() < 0.25:
            return self._whole(rng.choice(values.data))
        data = [*values.data, *itertools.chain(*map(oracle.texts, oracle.data_of(stored.recording)))]
        return self._bounded(data, (" ", "  ", " AND ", rng.choice(SPACES)))

    def _seconds(self, duration: Fraction) -> str:
        rng = self.rng
        near = max(duration + rng.choice((0, 0, 1, -1, 60)) * Fraction(1, rng.choice((1, 1000, 10_000))), Fraction(0))
        text = f"{float(near):.4f}"
        return rng.choice((text, text.rstrip("0").rstrip("."), f"00{text}0000", "0", "9" * 30, f"-{text}", f"{text}e0"))

    def _exact(self, values: list[str | None]) -> str:
        value = self.rng.choice(values) or "x"
        spelled = (value, value, self._in_another_case(value), self._changed(value))
        return self.rng.choice([text for text in spelled if text])

    def _whole(self, value: str) -> str:
        """A value as it is, with its white space and its stars, or one that differs in those only."""
        rng = self.rng
        at = rng.randint(0, len(value))
        near = (
            value.strip(),
            " ".join(value.split()),
            value.replace("*", "-"),
            f" {value}",
            f"{value[:at]} {value[at:]}",
            f"*{value[1:]}",
            f"{value[:at]}*{value[at + 1 :]}",
        )
        parameter = rng.choice((value, rng.choice(near)))
        return parameter if parameter and is_within_bounds(parameter) else "*"

    def _bounded(self, values: list[str], separators: tuple[str, ...] = ()) -> str:
        """A parameter inside the bounds that the service sets, out of some of the values."""
        for _ in range(8):
            parameter = self._pattern(values, may_split=bool(separators))
            while separators and self.rng.random() < 0.4:
                parameter += self.rng.choice(separators) + self._pattern(values, may_split=True)
            if parameter and (parameter.strip() or not separators) and is_within_bounds(parameter):
                return parameter
        return self.rng.choice(("*", "**", "x"))

    def _pattern(self, values: list[str], *, may_split: bool) -> str:
        rng = self.rng
        value = rng.choice(values) if values else rng.choice(FAMILIAR)
        match rng.randrange(8):
            case 0:
                pattern = value
            case 1:  # one part, anywhere
                start = rng.randint(0, len(value))
                pattern = f"*{value[start : start + rng.choice((1, 2, 3, 4, 8, 300))]}*"
            case 2:  # the start or the end
                length = rng.choice((1, 2, 3, 4, 8))
                pattern = rng.choice((f"{value[:length]}*", f"*{value[-length:]}"))
            case 3:  # over the border between two values
                other = rng.choice(values) if values else value
                pattern = f"*{value[-rng.randint(1, 3) :]}{other[: rng.randint(1, 3)]}*"
            case 4 if may_split and value.split():  # one of its words
                pattern = rng.choice(value.split())
            case _:
                pattern = self._with_gaps(value)
        if may_split and rng.random() < 0.5:
            pattern = rng.choice(("*", "*", "**")).join(pattern.split()) or pattern
        if rng.random() < 0.3:
            pattern = self._in_another_case(pattern)
        if rng.random() < 0.4:
            pattern = self._changed(pattern)
        return pattern

    def _in_another_case(self, pattern: str) -> str:
        """Other spellings of the same, some of which a search takes for equal."""
        changes = (str.upper, str.lower, str.swapcase, str.casefold, str.title)
        normalized = (unicodedata.normalize(form, pattern) for form in ("NFC", "NFD", "NFKC", "NFKD"))
        return self.rng.choice((*(change(pattern) for change in changes), *normalized))

    def _with_gaps(self, value: str) -> str:
        """The value with runs of it, also empty ones, replaced by stars."""
        rng = self.rng
        cuts = sorted(rng.randint(0, len(value)) for _ in range(2 * rng.randint(1, 4)))
        pattern, at = "", 0
        for start, end in zip(cuts[::2], cuts[1::2], strict=True):
            pattern += value[at:start] + rng.choice(("*", "*", "*", "**"))
            at = end
        return pattern + value[at:]

    def _changed(self, pattern: str) -> str:
        """A near miss, mostly: something small is different."""
        rng = self.rng
        at = rng.randint(0, max(0, len(pattern) - 1))
        before, this, after = pattern[:at], pattern[at : at + 1], pattern[at + 1 :]
        odd = rng.choice((rng.choice(MARKS), rng.choice(CONTROL), rng.choice(SYNTAX), rng.choice(PLAIN), "*", "?"))
        changed = (
            before + after,
            before + this + this + after,
            before + odd + after,
            before + odd + this + after,
            odd + pattern,
            pattern + odd,
            f" {pattern}",
            f"{pattern} ",
            f" {pattern.removeprefix('+')}",
            f"\u202a{pattern}\u202c",
            f"\u200e {pattern}\u00a0",
            pattern.replace("*", "＊"),
            before + "*" + after,
            before + this + "*" + after,
            after + this + before,
            pattern.replace("*", ""),
            # What other languages of patterns would take for the same.
            before + "?" + after,
            before + "." + after,
            f"{before}[{this}]{after}",
            f"{before}\\{this}{after}",
            pattern.replace("*", "%"),
            pattern.replace("*", ".*"),
            pattern.replace("*", "?"),
            f'"{pattern}"',
            f"{pattern}~",
        )
        return rng.choice(changed)


def is_within_bounds(parameter: str) -> bool:
    """Beyond these the service may answer with code 2."""
    folds = (oracle.name_form, oracle.number_form, oracle.text_form)
    inner = [part for text in (parameter, *parameter.split()) for part in text.split("*")[1:-1]]
    has_short_inner_part = any(1 <= len(fold(part)) <= 2 for part in inner for fold in folds)
    # Folding lengthens some letters, and a noncharacter counts six times.
    forms = (parameter, *(fold(parameter) for fold in folds))
    weight = max(sum(6 if "\ufdd0" <= c <= "\ufdef" else 1 for c in form) for form in forms)
    return (
        len(parameter) <= LONGEST
        and max(map(len, forms)) <= 20_000
        and (weight <= 6000 or "*" not in parameter.strip("*"))
        and (weight <= 200 or not has_short_inner_part)
        and len(parameter.split()) <= 50
        and parameter.count("*") <= 50
    )


def words_with_short_inner_parts(query: Mapping[str, str]) -> int:
    """Of more than two such words in all criteria the service may answer with code 2 (docs/contract.md section 14)."""
    words = [
        word
        for name, value in query.items()
        if name.startswith("user") or name == "label" or name.lower().endswith("phonenumber")
        for word in ([value] if name.lower().endswith("phonenumber") else value.split())
    ]
    folds = (str.casefold, oracle.name_form, oracle.number_form, oracle.text_form)
    return sum(any(1 <= len(fold(part)) <= 2 for part in word.split("*")[1:-1] for fold in folds) for word in words)


def encoded(rng: Random, parameters: Mapping[str, str]) -> str:
    """A query string as clients write it: a space as `%20` or `+`, and a date's `+` often left as it is."""
    pairs = []
    for name, value in parameters.items():
        text = quote(value, safe="")
        if rng.random() < 0.5:
            text = text.replace("%20", "+")
        if name in {"startTime", "endTime"} and rng.random() < 0.5:
            text = text.replace("%2B", "+").replace("%3A", ":")
        pairs.append(f"{name}={text}")
    return "&".join(pairs)


# --- Asking the service ---------------------------------------------------------------------------


@dataclass
class Door:
    """A way to search: a user and a path, which sees one contact center, or what the user sees of it."""

    client: httpx.AsyncClient
    path: str
    contact_center: str
    viewer: Viewer = EVERYBODY


async def send(client: httpx.AsyncClient, uri: str) -> httpx.Response:
    # As the request's target, for httpx refuses URLs of over 64 KiB, and would encode them its own way.
    parts = urlsplit(uri)
    return await client.get("/", extensions={"target": f"{parts.path}?{parts.query}".encode("ascii")})


async def difference(
    door: Door, stored: Sequence[Stored], parameters: Mapping[str, str], rng: Random, *, paged: bool = True
) -> str:
    """What the service answers otherwise than the oracle, paged forth and back; empty if nothing."""
    order = rng.choice(("newest", "oldest"))
    try:
        expected = oracle.search(stored, parameters, door.contact_center, REGION, order, viewer=door.viewer)
    except oracle.InvalidParameter as reason:
        response = await send(door.client, f"{door.path}?{encoded(rng, parameters)}")
        if (response.status_code, response.json()["statusCode"]) == (400, 2):
            return ""
        return f"expected code 2 ({reason}), got {response.status_code} {response.text[:300]}"

    asked = dict(parameters)
    if order == "oldest" or rng.random() < 0.3:
        asked["order"] = order
    if rng.random() < 0.3:
        asked["total"] = "*"
    if paged and rng.random() < 0.7:
        at_least = math.ceil(len(expected) / 6)  # six pages say what sixty do
        asked["limit"] = str(min(100, max(rng.choice((1, 2, 3, 7, 100)), at_least)))
    if paged and rng.random() < 0.3:
        asked["offset"] = str(rng.randint(0, len(expected) + 1))
    walk = Walk(door, asked, expected, encoded(rng, asked))
    try:
        await walk.forth_and_back()
    except Wrong as wrong:
        found = await ids_found(door, encoded(Random(0), parameters))
        return f"{wrong}\n  asked: {walk.uri[:2000]}\n" + explained(parameters, expected, found, stored)
    return ""


class Wrong(Exception):
    """A page is not what the oracle says."""


def require(holds: bool, otherwise: str) -> None:
    # Not `assert`, to which pytest adds its own account of two long lists.
    if not holds:
        raise Wrong(otherwise)


def require_shown(door: Door, one: Stored, found: dict[str, Any]) -> None:
    labels = [label["name"].lower() for label in found.get("labels", [])]
    require(labels == sorted(one.searchable.labels), f"labels {labels}")
    shown = oracle.shown(
        one.recording,
        to_ops="/ops/" in door.path,
        is_protected=one.searchable.is_protected,
        viewer=door.viewer,
    )
    require(
        oracle.comparable(oracle.without_links(found)) == oracle.comparable(shown),
        f"expected {oracle.dumps(shown, ascii_only=True)[:3000]}, got {ascii(found)[:3000]}",
    )


class Walk:
    """Follows `nextUri` to the end and `prevUri` back to the start, and compares every page."""

    def __init__(self, door: Door, asked: dict[str, str], expected: list[Stored], query: str) -> None:
        self.door, self.asked, self.expected = door, asked, expected
        self.uri = f"{door.path}?{query}"

    async def forth_and_back(self) -> None:
        page = await self._page(self.uri)
        while "nextUri" in page:
            page = await self._page(page["nextUri"])
        while "prevUri" in page:
            before = self._place(page["prevUri"])[0]
            page = await self._page(page["prevUri"])
            if "prevUri" in page:
                require(self._place(page["prevUri"])[0] < before, "prevUri does not lead back")

    def _place(self, uri: str) -> tuple[int, int]:
        place = dict(parse_qsl(urlsplit(uri).query, keep_blank_values=True))
        return int(place.get("offset", 0)), int(place.get("limit", 100))

    async def _page(self, uri: str) -> dict[str, Any]:
        response = await send(self.door.client, uri)
        require(response.status_code == 200, f"{response.status_code} {response.text[:300]}")
        page: dict[str, Any] = oracle.loads(response.content)
        offset, limit = self._place(uri)

        expected = self.expected[offset : offset + limit]
        ids = [recording["id"] for recording in page["recordings"]]
        expected_ids = [stored.recording["id"] for stored in expected]
        require(ids == expected_ids, f"at {offset}: expected {ascii(expected_ids)[:1000]}, got {ascii(ids)[:1000]}")
        total = {"total": oracle.Number(str(len(self.expected))), "totalIsExact": True} if "total" in self.asked else {}
        require({name: page.get(name) for name in total} == total, f"total {page.get('total')}")
        known = {"statusCode", "recordings", *total}
        require(page.keys() - {"prevUri", "nextUri"} == known, f"attributes {list(page)}")
        require(("nextUri" in page) == (offset + limit < len(self.expected)), "nextUri exactly if more follow")
        require(("prevUri" in page) == (offset > 0), "prevUri exactly if the offset is not 0")
        for found, one in zip(page["recordings"][:2], expected, strict=False):  # two of each page are enough
            require_shown(self.door, one, found)
        for link in {"prevUri", "nextUri"} & page.keys():
            self._check_link(page[link])
        return page

    def _check_link(self, uri: str) -> None:
        parts = urlsplit(uri)
        require(f"{parts.scheme}://{parts.netloc}" == str(self.door.client.base_url), f"not absolute: {uri[:200]}")
        require(parts.path == self.door.path, f"another path: {uri[:200]}")
        kept = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True))
        for name, value in self.asked.items():
            if name in {"startTime", "endTime"}:
                require(oracle.queried_instant(kept[name]) == oracle.queried_instant(value), f"{name} is lost: {uri}")
            elif name != "offset":
                require(kept[name] == value, f"{name} is lost: {uri[:200]}")


async def ids_found(door: Door, query: str) -> set[str]:
    """All ids that a search finds, by offset, as far as it gets."""
    found: set[str] = set()
    for offset in range(0, 1000, 100):
        response = await send(door.client, f"{door.path}?{query}&offset={offset}")
        found.update(recording["id"] for recording in response.json().get("recordings", []))
    return found


def explained(
    parameters: Mapping[str, str], expected: Sequence[Stored], found: set[str], stored: Sequence[Stored]
) -> str:
    """The query, and recordings that only one of the two found, to be posted again."""
    lines = [f"  parameters: {dict(parameters)!a}"]
    wanted = {one.recording["id"] for one in expected}
    for one in stored:
        recording_id = one.recording["id"]
        if (recording_id in wanted) != (recording_id in found) and len(lines) < 6:
            lines.append(f"  {'unexpected' if recording_id in found else 'missing'}: in {one.contact_center}")
            lines.append(f"    {oracle.dumps(one.recording, ascii_only=True)[:12_000]}")
    return "\n".join(lines)


async def post(client: httpx.AsyncClient, contact_center: str, body: str) -> None:
    path = f"/api/v2/ops/contact-centers/{contact_center}/recordings"
    response = await client.post(path, content=body.encode(), headers={"Content-Type": "application/json"})
    assert response.status_code in {200, 201}, f"{response.text} for {body[:3000]}"


async def post_all(
    client: httpx.AsyncClient, rng: Random, histories: Sequence[tuple[str, list[Recording]]]
) -> list[Stored]:
    """Posts each (contact center, posts for one id) in order, and many beside one another."""
    slots = asyncio.Semaphore(8)

    async def post_in_order(contact_center: str, bodies: list[str]) -> None:
        async with slots:
            for body in bodies:
                await post(client, contact_center, body)

    async with asyncio.TaskGroup() as tasks:
        for contact_center, posts in histories:
            bodies = [oracle.dumps(recording, ascii_only=rng.random() < 0.5) for recording in posts]
            tasks.create_task(post_in_order(contact_center, bodies))
    return [Stored.of(contact_center, oracle.merge(*posts)) for contact_center, posts in histories]


async def labelled_and_protected(service: Service, rng: Random, stored: Sequence[Stored]) -> list[Stored]:
    """Labels half of the recordings that a user can reach, and protects a third."""
    admins = {CONTACT_CENTER: service.client("admin"), OTHER_CONTACT_CENTER: service.client("other-admin")}
    for admin in admins.values():
        for name in LABELS:
            created = await admin.post("/api/v2/recording-label-definitions", json={"name": name})
            assert created.status_code in {201, 409}, created.text
    return [await _changed(admins[one.contact_center], rng, one) for one in stored]


async def _changed(admin: httpx.AsyncClient, rng: Random, one: Stored) -> Stored:
    if one.recording["region"] != REGION:
        return one
    path = f"/api/v2/recordings/{quote(one.recording['id'], safe='')}"
    labels = rng.sample(LABELS, rng.choice((0, 0, 1, 2, 4)))
    is_protected = rng.random() < 0.3
    changes: list[tuple[str, dict[str, str]]] = [(f"{path}/labels", {"name": name}) for name in labels]
    changes += [(path, {"operationName": "applyNonDelete"})] * is_protected
    rng.shuffle(changes)
    for changed, body in changes:
        response = await admin.post(changed, json=body)
        assert response.status_code in {200, 201}, response.text
    if labels and rng.random() < 0.2:
        taken = labels.pop()
        assert (await admin.delete(f"{path}/labels/{taken.swapcase()}")).status_code == 200
    return Stored.of(one.contact_center, one.recording, is_protected=is_protected, labels=labels)


async def differences(
    questions: Iterable[tuple[str, Door, Mapping[str, str]]], stored: Sequence[Stored], *, paged: bool = True
) -> list[str]:
    """All differences, asked eight at a time; each question has a name, which also seeds its paging."""
    waiting = iter(questions)
    wrong: list[str] = []

    async def ask() -> None:
        for name, door, parameters in waiting:
            found = await difference(door, stored, parameters, Random(name), paged=paged)
            if found:
                wrong.append(f"{name}: {found}")

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(ask())
    return wrong


def assert_none(wrong: list[str]) -> None:
    # The shortest say most.
    shortest = "\n".join(sorted(wrong, key=len)[:3])
    assert not wrong, f"{len(wrong)} answers differ, among them\n{shortest}"


# --- The properties -------------------------------------------------------------------------------


def a_big_world(rng: Random) -> list[tuple[str, list[Recording]]]:
    """Recordings, some updated, in two contact centers and two regions, some under the same id."""
    make = Recordings(rng, [Vocabulary(rng) for _ in range(12)], long=0.02, placed=0.9)
    homes = ((CONTACT_CENTER, REGION),) * 8 + ((OTHER_CONTACT_CENTER, REGION), (CONTACT_CENTER, OTHER_REGION))
    histories: list[tuple[str, list[Recording]]] = []
    for number in range(BIG_WORLD_RECORDINGS):
        recording_id = make.recording_id(number)
        for contact_center, region in dict.fromkeys(rng.sample(homes, 2 if number % 10 == 0 else 1)):
            posts = [make.one(recording_id, region) for _ in range(rng.choice((1, 1, 1, 2)))]
            histories.append((contact_center, posts))
    return histories


@pytest.mark.parametrize("seed", SEEDS)
async def test_searches_in_a_big_world_match_the_oracle_in_order(
    seed: int, start_service: StartService, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    """The answers to administrators, to ops, and to users who see a part of the recordings."""
    rng = Random(seed)
    names = [*USER_NAMES, *(f"user{n}" for n in range(LIMITED_USERS - len(USER_NAMES)))]
    viewers = [a_viewer(rng, name) for name in names]
    service = await start_service(users=(*USERS, *(a_user_for(rng, viewer) for viewer in viewers)), **PATIENT)
    histories = a_big_world(rng)
    stored = await post_all(service.client("ops"), rng, histories)
    stored = await labelled_and_protected(service, rng, stored)
    await elasticsearch.indices.refresh(index=f"{settings.index_prefix}-*")

    doors = [
        Door(service.client("admin"), "/api/v2/recordings", CONTACT_CENTER),
        Door(service.client("admin"), "/api/v2/recordings/recordings", CONTACT_CENTER),
        Door(service.client("ops"), f"/api/v2/ops/contact-centers/{CONTACT_CENTER}/recordings", CONTACT_CENTER),
        Door(service.client("other-admin"), "/api/v2/recordings", OTHER_CONTACT_CENTER),
    ]
    limited = [
        Door(
            service.client(None, headers={"authorization": basic(viewer.name, f"{viewer.name}-password")}),
            "/api/v2/recordings",
            CONTACT_CENTER,
            viewer,
        )
        for viewer in viewers
    ]
    queries = Queries(rng, stored)
    questions = [
        (f"seed {seed}, query {n}", rng.choice(rng.choice((doors, limited, limited))), queries.one())
        for n in range(BIG_WORLD_SEARCHES)
    ]
    assert_none(await differences(questions, stored))
    outcomes = set()
    for door in limited:
        for one in rng.sample(stored, 8):
            if (one.contact_center, one.recording["region"]) == (CONTACT_CENTER, REGION):
                outcomes.add(await require_read(door, one))
    assert outcomes == {"all", "some", "none"}


async def require_read(door: Door, one: Stored) -> str:
    """Reads a recording by id; returns which of its media files the user sees."""
    recording_id = one.recording["id"]
    response = await send(door.client, f"{door.path}/{quote(recording_id, safe='')}")
    visible = oracle.visible_media(one.recording, door.viewer)
    if not visible:
        expected = {"statusCode": 6, "statusMessage": f"Requested recording [{recording_id}] cannot be found."}
        require((response.status_code, response.json()) == (404, expected), f"{door.viewer}: {response.text[:300]}")
        return "none"
    require(response.status_code == 200, f"{door.viewer} does not see {recording_id!a}: {response.text[:300]}")
    require_shown(door, one, oracle.loads(response.content)["recording"])
    return "all" if len(visible) == len(one.recording["mediaFiles"]) else "some"


@hypothesis.settings(
    max_examples=SMALL_WORLDS,
    deadline=None,
    derandomize=False,
    print_blob=True,
    report_multiple_bugs=False,
    # Every example has a contact center of its own, so they may share the service. Posting takes long.
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
@hypothesis.given(rng=strategies.randoms(use_true_random=False))
async def test_searches_in_small_worlds_match_the_oracle(
    rng: Random, service: Service, ops: httpx.AsyncClient, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    """As above with few recordings, which hypothesis makes fewer and simpler when a search fails."""
    contact_center = str(uuid4())
    make = Recordings(rng, [Vocabulary(rng)])
    recordings = [make.one(f"{number}", REGION) for number in range(rng.randint(1, 4))]
    stored = await post_all(ops, rng, [(contact_center, [recording]) for recording in recordings])
    await elasticsearch.indices.refresh(index=f"{settings.index_prefix}-*")

    door = Door(ops, f"/api/v2/ops/contact-centers/{contact_center}/recordings", contact_center)
    queries = Queries(rng, stored)
    for _ in range(rng.randint(1, 12)):
        wrong = await difference(door, stored, queries.one(), rng)
        assert not wrong, wrong


def a_findable_recording(recording_id: str, text: str, *more: str | Number) -> Recording:
    """One text for all criteria, and more of them in `data`."""
    event = {
        "occurredAt": "2013-05-18T22:25:56Z",
        "contact": {"type": "External", "phoneNumber": "UNKNOWN", "lastName": text},
        "event": "Joined",
        "data": {"value": text, "more": list(more)},
    }
    return a_recording(recording_id, callerPhoneNumber=text.strip() or "x", eventHistory=[event])


async def assert_found(
    service: Service,
    elasticsearch: AsyncElasticsearch,
    settings: Settings,
    recordings: Iterable[Recording],
    queries: Iterable[Mapping[str, str]],
) -> None:
    """The admin finds among these recordings what the oracle does, with each of the queries."""
    histories = [(CONTACT_CENTER, [recording]) for recording in recordings]
    stored = await post_all(service.client("ops"), Random(0), histories)
    await elasticsearch.indices.refresh(index=f"{settings.index_prefix}-*")
    door = Door(service.client("admin"), "/api/v2/recordings", CONTACT_CENTER)
    asked = [*queries]
    if PART_OF_SPECIAL_SEARCHES > 1:
        asked = Random(len(asked)).sample(asked, len(asked) // PART_OF_SPECIAL_SEARCHES)
    questions = [(ascii(dict(query))[:200], door, query) for query in asked]
    assert_none(await differences(questions, stored, paged=False))


async def test_number_is_found_by_its_posted_text(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    """Also when it came with an earlier post, and not by another text of the same worth."""
    numbers = (*NUMBERS, "1e400", "0.1234567890123456789", "12345678901234567890.50")
    histories = []
    texts = {"-0", "Infinity", "1.0"}
    for number in numbers:
        posted = a_findable_recording(number, "x", Number(number))
        update = a_recording(number, eventHistory=[an_event(occurredAt="2013-05-19T00:00:00Z")])
        histories.append((CONTACT_CENTER, [posted, update]))
        texts |= {number, f"{number}*", f"*{number[1:]}", repr(float(number))}
    stored = await post_all(service.client("ops"), Random(0), histories)
    await elasticsearch.indices.refresh(index=f"{settings.index_prefix}-*")
    door = Door(service.client("admin"), "/api/v2/recordings", CONTACT_CENTER)
    questions = [(text, door, {"userData": text}) for text in sorted(texts)]
    assert_none(await differences(questions, stored, paged=False))


async def test_special_characters_match_literally(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    """Alone, between letters and at both ends: each is found by itself, and none by another."""
    characters = list(dict.fromkeys("".join((*SYNTAX, *SPACES, *CONTROL, *MARKS, *CASED))))
    recordings = [a_findable_recording(f"{ord(c):x}", f"x{c}y", c, f"{c}z{c}") for c in characters]
    queries: list[Mapping[str, str]] = []
    for c in characters:
        queries.extend(
            (
                {"callerPhoneNumber": f"x{c}y"},
                {"callerPhoneNumber": f"*{c}y"},
                {"userName": f"x{c}*"},
                {"userData": f"{c}z*"},
                {"userData": f"*z{c}"},
                {"userData": f"*{c}*"},
                {"userData": c},
            )
        )
    await assert_found(
        service, elasticsearch, settings, recordings, (query for query in queries if "".join(query.values()).strip())
    )


async def test_every_letter_matches_case_insensitively(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    """Many letters to a name and to a query: with AND none may be missed, and without none be confused."""
    changes = (str.upper, str.lower, str.casefold)
    characters = [chr(code) for code in range(sys.maxunicode + 1)]
    changing = [c for c in characters if any(change(c) != c for change in changes)]
    # All those of which some two ways to ignore case make different letters, and a part of the many others.
    odd = {c for c in changing if len({c.upper().lower(), c.lower(), c.casefold(), c.upper().casefold()}) > 1}
    letters = sorted(odd | set(changing[::8]) | set(CASED))
    words = [f"x{letter}y" for letter in (*letters, *sorted({letter.casefold() for letter in letters}))]
    names = [words[start : start + 25] for start in range(0, len(words), 25)]
    recordings = [a_findable_recording(f"{number}", " ".join(name)) for number, name in enumerate(names)]
    queries = [{"userName": " AND ".join(change(word) for word in name)} for name in names for change in changes]
    queries.extend({"userName": " ".join(name)} for name in names)
    await assert_found(service, elasticsearch, settings, recordings, queries)


async def test_all_two_letter_patterns_match_the_oracle(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    """All values of up to five letters against all patterns of up to four, where parts repeat and overlap."""
    values = ["".join(letters) for length in range(1, 6) for letters in itertools.product("ab", repeat=length)]
    recordings = [a_findable_recording(value, value) for value in values]
    patterns = ["".join(parts) for length in range(1, 5) for parts in itertools.product("ab*", repeat=length)]
    queries = [{name: pattern} for name in ("callerPhoneNumber", "userName", "userData") for pattern in patterns]
    await assert_found(service, elasticsearch, settings, recordings, queries)


async def test_longest_parameters_are_answered_correctly(
    service: Service, elasticsearch: AsyncElasticsearch, settings: Settings
) -> None:
    """What is just inside the bounds, and values longer than an index term may be (32,766 bytes)."""
    values = {
        "emoji": "😀" * 5000,
        "other end": "😀" * 4999 + "😎",
        "beyond": "😀" * 20_000 + "end",
        "growing": "ΐ" * 5000,  # folds to three characters each
        "ligatures": "ﬃ" * 5000,
        "many in one": "ﷺ" * 1000,  # folds to eighteen characters each
        "letters": "".join(chr(ord("a") + n * n % 23) for n in range(5000)),
        "noncharacters": "\ufdd0\ufdef" * 2500,
        "words": " ".join(f"word{n}" for n in range(60)),
        "ab": "ab" * 100,
    }
    recordings = [a_findable_recording(name, value) for name, value in values.items()]
    letters = values["letters"]
    patterns = [
        *(value for value in values.values() if is_within_bounds(value)),
        "😀" * 4999 + "*",
        "*" + "😀" * 4998 + "😎",
        "*" + "😀" * 4998 + "*",
        "\ufdd0\ufdef" * 400 + "*" + "\ufdd0\ufdef" * 99,
        "\ufdef\ufdd0\ufdef*" * 50,
        "\ufdd0\ufdef" * 2499 + "*",
        "*😀end",
        "*😀😀😀end",
        "😀😀😀*end",
        "ΐ" * 4000 + "*",
        "*" + "ΐ" * 4000,
        "ffi" * 1666 + "*",
        "ﷺ" * 999 + "*",
        "*" + unicodedata.normalize("NFKC", "ﷺ" * 15),
        "FFI" * 1666 + "*",
        "ﬃ" * 4999 + "*",
        *(f"*{letters[-length:]}" for length in (1, 2, 3, 100, 4000)),
        "*".join(letters[n * 100 : n * 100 + 60] for n in range(50)) + "*",  # 50 stars
        "*".join(letters[n * 100 : n * 100 + 60] for n in range(49, -1, -1)) + "*",  # the same, in disorder
        "*" * 50,
        "a*b" * 49,
        "*".join("b" * 50) + "*",
        "*a" * 50,
        "*b*" + "ab" * 97 + "*a*",  # 200 characters with short inner parts
        " ".join(f"word{n}" for n in range(50)),  # 50 words
        " ".join(f"*ord{n}" for n in range(50)),
        " ".join(f"no{n}" for n in range(49)) + " word59",
    ]
    queries = [{name: pattern} for name in ("callerPhoneNumber", "userName", "userData") for pattern in patterns]
    queries.append({"userName": " AND ".join(["word1", "word2", "word3", "*59", "word5*"])})
    assert all(is_within_bounds(parameter) for query in queries for parameter in query.values())
    await assert_found(service, elasticsearch, settings, recordings, queries)
