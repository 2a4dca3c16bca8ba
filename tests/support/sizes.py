"""How much each long test does: enough to prove it, or with `scripts/test --full` the sizes of the criteria."""

import os
from typing import TypeVar

T = TypeVar("T", int, float)

FULL = os.environ.get("RECALL_TEST_FULL") == "1"


def size(usual: T, *, full: T) -> T:
    return full if FULL else usual


# Rounds of each race of two requests, at least; a race goes on until each outcome was seen.
RACE_ROUNDS = size(20, full=300)

# Rounds in which a deletion of a media object meets a POST and an applyNonDelete that refer to it.
CLAIM_ROUNDS = size(30, full=1_000)

# Rounds in which several requests want the same label definition, and then the same display name.
DEFINITION_ROUNDS = size(5, full=50)

# Nodes of a cluster that are killed and started again, one after the other.
LOST_NODES = size(1, full=2)

# Documents that a migration copies beside a writer and a reader, and the longest time without an answer meanwhile.
# The criterion is 200,000 and 2 s, on a machine that does nothing else.
MIGRATED_DOCUMENTS = int(os.environ.get("RECALL_MIGRATION_DOCUMENTS", "5000"))
MOST_UNAVAILABLE_SECONDS = 2.0 if "RECALL_MIGRATION_DOCUMENTS" in os.environ else 15.0
MIGRATION_KILLS = size(4, full=20)

# Recordings that one run of the purge deletes, whose memory must not grow meanwhile. Its memory grows for the first
# 15,000 or so, which have to be less than a third of what is left after a kill.
PURGED_RECORDINGS = size(60_000, full=100_000)

# Recordings that are protected or updated while a purge reaches them.
RACED_BY_PURGE = size(180, full=450)

# Recordings that are deleted while their process is killed again and again.
WORKED_ON_BESIDE_KILLS = size(40, full=200)

# Groups that are protected, or whose one or two holds are lifted, while their process is killed every seven or so. Each
# kill is in the middle of four changes: with the sizes of the criteria of more than 100.
KILLED_GROUPS = size(20, full=200)

# Players that leave somewhere in a file, of each of 16 that play concurrently.
LEAVING_PLAYERS = size(12, full=125)

# Recordings that a client walks page by page, 100 a page; more than offsets reach.
WALKED_RECORDINGS = size(10_500, full=25_000)

# Minutes of normal and hostile clients together. On a quiet machine the criterion is 20.
SOAK_MINUTES = size(0.1, full=20.0)

# Random ranges of a media file that each of the faster storages serves; the others serve half as many.
MEDIA_RANGES = size(30, full=500)

# What the oracle answers too: worlds, the recordings of each and random searches in each, hypothesis's examples of
# small worlds, and one in so many of the searches for values that are special.
BIG_WORLDS = size(1, full=3)
BIG_WORLD_RECORDINGS = size(120, full=280)
BIG_WORLD_SEARCHES = size(80, full=1_100)
SMALL_WORLDS = size(5, full=40)
PART_OF_SPECIAL_SEARCHES = size(6, full=1)

# Ids that hypothesis posts one to five times, each read in every way after each post.
MERGED_IDS = size(20, full=60)

# Plays from a storage in memory, each with one of all combinations of request and answer, at least; and from one that
# answers at random, over sockets.
ANSWERED_PLAYS = size(3_000, full=1_000_000)
RANDOM_PLAYS = size(3_000, full=10_000)

# Deletions of media objects whose storage answers at random, three or four times each.
DELETION_SCENES = size(1_500, full=10_000)

# Pairs of POSTs of many random recordings, each compared with the same recordings posted one by one.
POSTED_BATCHES = size(6, full=60)

# Random recordings that are rendered in both ways, and as many of the sample.
RENDERED_RECORDINGS = size(300, full=3_000)

# Random searches of the audit log that a plain look at its lines answers too.
AUDIT_SEARCHES = size(40, full=400)

# Of an evidence package in memory: 140 of them, which at full size are more than 8 GiB.
PACKAGE_PIECE = size(64 * 1024, full=64 * 1024 * 1024)

# Recordings with media that are backed up and restored, and kills of either meanwhile.
BACKED_UP_RECORDINGS = size(200, full=10_000)
BACKUP_KILLS = size(3, full=10)
RESTORE_KILLS = size(1, full=10)

# Recordings that one operation protects while its process is killed so many times, with two others beside.
OPERATED_RECORDINGS = int(os.environ.get("RECALL_OPERATED_RECORDINGS", str(size(80, full=100_000))))
OPERATION_KILLS = 10 if "RECALL_OPERATED_RECORDINGS" in os.environ else size(2, full=10)

# Rounds in which an operation on many meets each kind of single operation.
OPERATION_RACES = size(10, full=200)

# Requests to all routes while Elasticsearch fails with every fifth of its own.
FAULTY_REQUESTS = size(200, full=10_000)

# How long three processes that are killed, and everything that deletes, are let loose on what is held.
EVIDENCE_SECONDS = size(8.0, full=300.0)
