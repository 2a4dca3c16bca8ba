"""The questions of supervisors, as requests to the API and to Elasticsearch."""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from elasticsearch import AsyncElasticsearch

from app import codec
from app.embedded.loader import Sample
from app.recordings.dates import format_instant, parse_instant
from app.recordings.identity import encode_segment
from app.recordings.model import Recording
from app.store.documents import document_id
from benchmarks.client import Request, authorization
from benchmarks.stage import CONTACT_CENTER

_PAGE = 100


@dataclass(frozen=True)
class Question:
    """A question, as a request to each side."""

    kind: str
    api: Request
    direct: Request


Clause = dict[str, Any]


class Questions:
    """The questions of supervisors, about random values of the sample."""

    def __init__(self, sample: Sample, count: int, index: str, data_fields: Sequence[str], seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._sample = sample
        self._count = count
        self._path = f"/{index}/_search"
        self._data_fields = data_fields
        self._api_headers = (authorization(), ("Accept", "application/json"))

    def make(self, number: int) -> list[Question]:
        """Yields questions of all kinds in turn."""
        kinds = itertools.cycle(
            (
                self._time_range,
                self._caller,
                self._caller_prefix,
                self._inside_caller,
                self._agent,
                self._case,
                self._inside_data,
            )
        )
        return [next(kinds)() for _ in range(number)]

    def alone(self, number: int) -> dict[str, list[Question]]:
        """Returns so many questions of each kind, of those that ask for one recording too."""
        kinds = (
            self._time_range,
            self._caller,
            self._caller_prefix,
            self._inside_caller,
            self._agent,
            self._case,
            self._inside_data,
            self._first_of_a_time_range,
            self._by_id,
        )
        questions = ([make() for _ in range(number)] for make in kinds)
        return {some[0].kind: some for some in questions}

    def full_pages(self, number: int) -> list[Question]:
        """Returns so many questions that fill a page."""
        return [self._time_range() for _ in range(number)]

    def _first_of_a_time_range(self) -> Question:
        return self._time_range("page of 1: newest in a time range", page=1)

    def _by_id(self) -> Question:
        recording = self._recording()
        index = self._path.removesuffix("/_search")
        _id = document_id(CONTACT_CENTER, recording["region"], recording["id"])
        return Question(
            "look-up by id",
            Request("GET", f"/api/v2/recordings/{encode_segment(recording['id'])}", self._api_headers),
            Request("GET", f"{index}/_doc/{_id}"),
        )

    def _time_range(self, kind: str = "newest in a time range", page: int = _PAGE) -> Question:
        begin = parse_instant(self._recording()["startTime"])
        end = begin + self._random.randrange(1, 60) * 86_400_000
        return self._question(
            kind,
            {"startTime": format_instant(begin), "endTime": format_instant(end)},
            [{"range": {"startTime": {"gt": begin}}}, {"range": {"stopTime": {"lt": end}}}],
            page,
        )

    def _caller(self) -> Question:
        number = self._recording()["callerPhoneNumber"]
        return self._question(
            "caller's number", {"callerPhoneNumber": number}, [{"term": {"callerPhoneNumber.keyword": number}}]
        )

    def _caller_prefix(self) -> Question:
        pattern = f"{self._phone_number()[: self._random.randrange(5, 8)]}*"
        return self._question("caller begins with", {"callerPhoneNumber": pattern}, [_wildcard("caller", pattern)])

    def _inside_caller(self) -> Question:
        pattern = f"*{piece(self._random, self._phone_number(), 4)}*"
        return self._question(
            "inside the caller's number", {"callerPhoneNumber": pattern}, [_wildcard("caller", pattern)]
        )

    def _agent(self) -> Question:
        agent = self._contact()
        first, last = agent["firstName"].split()[0], agent["lastName"].split()[0]
        clauses: list[Clause] = [
            {"match": {"eventHistory.contact.firstName": {"query": first, "operator": "and"}}},
            {"match": {"eventHistory.contact.lastName": {"query": last, "operator": "and"}}},
        ]
        return self._question("agent's first AND last name", {"userName": f"{first} AND {last}"}, clauses)

    def _case(self) -> Question:
        case = self._data()["caseNumber"]
        return self._question(
            "case number", {"userData": case}, [{"term": {"eventHistory.data.caseNumber.keyword": case}}]
        )

    def _inside_data(self) -> Question:
        pattern = f"*{piece(self._random, self._data()['caseNumber'][-7:], 5)}*"
        # A client of the API need not know which values there are.
        clauses = [{"wildcard": {name: {"value": pattern}}} for name in self._data_fields]
        return self._question("inside user data", {"userData": pattern}, [{"bool": {"should": clauses}}])

    def _question(self, kind: str, parameters: dict[str, str], clauses: list[Clause], page: int = _PAGE) -> Question:
        if page != _PAGE:
            parameters = {**parameters, "limit": str(page)}
        body = {
            "query": {"bool": {"filter": [{"term": {"contactCenter.keyword": CONTACT_CENTER}}, *clauses]}},
            "sort": [{"startTime": "desc"}, {"id.keyword": "asc"}],
            "size": page,
            "track_total_hits": False,  # the API counts nothing either
        }
        return Question(
            kind,
            Request("GET", f"/api/v2/recordings?{urlencode(parameters)}", self._api_headers),
            Request("POST", self._path, (("Content-Type", "application/json"),), codec.encode(body)),
        )

    def _recording(self) -> Recording:
        return next(self._sample.recordings(self._random.randrange(self._count), 1))

    def _phone_number(self) -> str:
        while True:
            number: str = self._recording()["callerPhoneNumber"]
            if number.startswith("+"):
                return number

    def _contact(self) -> dict[str, Any]:
        events = self._recording()["eventHistory"]
        contact: dict[str, Any] = next(e["contact"] for e in events if e["contact"]["type"] == "User")
        return contact

    def _data(self) -> dict[str, Any]:
        events = self._recording()["eventHistory"]
        data: dict[str, Any] = next(e["data"] for e in events if "caseNumber" in e.get("data", {}))
        return data


def _wildcard(who: str, pattern: str) -> Clause:
    return {"wildcard": {f"{who}PhoneNumber.keyword": {"value": pattern}}}


async def keywords_below(client: AsyncElasticsearch, index: str, path: str) -> list[str]:
    """Returns the names of all keyword fields that dynamic mapping has made below a field."""
    mapping = (await client.indices.get_mapping(index=index)).body[index]["mappings"]
    for name in path.split("."):
        mapping = mapping["properties"][name]

    def below(mapping: dict[str, Any], path: str) -> Iterator[str]:
        for name, field_ in mapping.get("properties", {}).items():
            if "keyword" in field_.get("fields", {}):
                yield f"{path}.{name}.keyword"
            yield from below(field_, f"{path}.{name}")

    return list(below(mapping, path))


def piece(random: random.Random, value: str, length: int) -> str:
    """Returns a random part of a value."""
    start = random.randrange(max(len(value) - length, 0) + 1)
    return value[start : start + length]
