"""Fills by time from the info endpoint: since a cursor (start, outage, poll, audit), and between two times (gaps)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from common.clock import Clock
from common.contracts import GapStatus
from common.database import Database
from common.errors import BadInput, Refused, TryLater
from common.rest import Priority, RestClient
from common.venues.market import Request
from influencer_ingestor import hyperliquid as venue
from influencer_ingestor import statements as sql
from influencer_ingestor.chain import Chain
from influencer_ingestor.events import Fill
from influencer_ingestor.gaps import TRY_AFTER_S, Gap
from influencer_ingestor.intake import Intake
from influencer_ingestor.positions import market_of
from influencer_ingestor.settings import InfluencerSettings
from influencer_ingestor.watched import Watched
from influencer_ingestor.writer import Writer

log = logging.getLogger(__name__)

RETRY_S = 1.0
JOBS_MAX = 5_000
"""Gaps that wait for their fetch; the ledger keeps those beyond, for the next start."""


@dataclass(frozen=True)
class Job:
    """A gap to fetch, or with None everything since the account's cursor."""

    user: str
    chain: Chain | None = None
    gap: Gap | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """The same job is not queued twice."""
        if self.gap is None:
            return self.user, "", 0
        return self.user, self.gap.coin, self.gap.id


class Info:
    """The venue's info endpoint: POST, weight with its surcharge."""

    def __init__(self, rest: RestClient, path: str, clock: Clock) -> None:
        self._rest, self._path, self._clock = rest, path, clock
        self.answered_s: float | None = None
        self.calls_total = self.failures_total = 0

    @property
    def rest(self) -> RestClient:
        """For metrics."""
        return self._rest

    async def ask(self, body: dict[str, object], weight: int, priority: Priority = "live") -> bytes:
        """One call; raises what `RestClient.fetch` raises."""
        self.calls_total += 1
        try:
            answer = await self._rest.fetch(Request(self._path, (), weight, msgspec.json.encode(body)), priority)
        except (TryLater, Refused, BadInput):
            self.failures_total += 1
            raise
        self.answered_s = self._clock.monotonic_s()
        return answer

    async def fetch_fills(
        self, user: str, start_ms: int, end_ms: int | None, priority: Priority = "live"
    ) -> venue.Fills:
        """One page of fills, oldest first; raises also BadInput for what can not be read."""
        told = venue.parse_fills(
            await self.ask(venue.fills_request(user, start_ms, end_ms), venue.FILLS_WEIGHT, priority), user
        )
        surcharge = len(told.fills) // venue.ITEMS_PER_WEIGHT
        if surcharge:
            self._rest.budget.spend(surcharge, self._clock.monotonic_s())
        return told


class Filler:
    """Fetches what the streams did not bring; a job that fails is tried again."""

    def __init__(
        self, settings: InfluencerSettings, clock: Clock, info: Info, watched: dict[str, Watched], intake: Intake,
        writer: Writer, database: Database,
    ) -> None:  # fmt: skip
        self._settings, self._clock, self._info, self._watched = settings, clock, info, watched
        self._intake, self._writer, self._database = intake, writer, database
        self._jobs: asyncio.PriorityQueue[tuple[int, int, Job]] = asyncio.PriorityQueue()
        self._queued: set[tuple[str, str, int]] = set()
        self._number = 0
        self._later: set[asyncio.TimerHandle] = set()
        self.after_start: Callable[[str], None] = lambda user: None
        """Called when an account's fills since its cursor are stored."""
        self.found_total = 0
        """Fills that only the info endpoint brought."""

    def waiting(self) -> int:
        """Jobs that wait or run."""
        return len(self._queued)

    def want_gap(self, chain: Chain, gap: Gap) -> None:
        """Fetch a gap's times now."""
        self._put(Job(chain.user, chain, gap))

    def want_since(self, user: str) -> None:
        """Fetch all since an account's cursor."""
        self._put(Job(user))

    async def run(self) -> None:
        """Work off the jobs, several at once, for ever."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._settings.fetches_at_once):
                group.create_task(self._work(), name=f"fetch-{number}")

    async def fetch_since(
        self, user: str, overlap_ms: int, priority: Priority = "live", span: tuple[int, int] | None = None
    ) -> int | None:
        """Fetch, and store, all since the cursor; returns how many fills came, None when the account went meanwhile.

        `span` asks for two other times (ms) instead, both later than the cursor's own last fetch.

        With nothing missed in between, the account is covered from then on, and the cursor moves. Raises TryLater.
        """
        if (watched := self._watched.get(user)) is None:
            return None
        breaks, heard, polled = watched.breaks, watched.heard, watched.polled
        start_ms, until_ms = span or (watched.cursor_ms - overlap_ms, None)
        items, newest_ms = await self._fetch(user, max(watched.account.added_ms, start_ms), until_ms, priority)
        await self._writer.settled(user)
        if self._watched.get(user) is not watched or watched.breaks != breaks:
            return items
        if heard or polled:
            self._writer.move_cursor(user, newest_ms)
            watched.covered = heard and not polled
        return items

    def _put(self, job: Job) -> None:
        if job.key in self._queued or len(self._queued) >= JOBS_MAX:
            return
        self._queued.add(job.key)
        self._number += 1
        self._jobs.put_nowait((0 if job.gap is not None else 1, self._number, job))

    def _put_later(self, job: Job, wait_s: float) -> None:
        def put() -> None:
            self._later.discard(handle)
            self._put(job)

        handle = asyncio.get_running_loop().call_later(wait_s, put)
        self._later.add(handle)

    async def _work(self) -> None:
        while True:
            _, _, job = await self._jobs.get()
            try:
                if job.gap is None or job.chain is None:
                    await self._fill_since(job)
                else:
                    await self._fill_gap(job, job.chain, job.gap)
            except TryLater as error:
                log.warning("fills not fetched", extra={"account": job.user, "error": str(error)})
                self._put_later(job, max(RETRY_S, error.wait_s or 0.0))
            except (Refused, BadInput) as error:
                log.error("the info endpoint refuses", extra={"account": job.user, "error": str(error)})
                self._put_later(job, 10 * RETRY_S)
            finally:
                self._queued.discard(job.key)

    async def _fill_since(self, job: Job) -> None:
        watched = self._watched.get(job.user)
        breaks = watched.breaks if watched else 0
        await self.fetch_since(job.user, self._settings.start_overlap_ms())
        if watched is None or (now := self._watched.get(job.user)) is None:
            return
        if now is not watched:
            # Taken anew meanwhile: what was wanted for it then was this very job.
            self._put_later(job, 0.0)
            return
        broken = watched.breaks != breaks
        # Heard only since the fetch began, it is not covered either: what asked for that was taken for this job.
        if watched.heard and (broken or not (watched.polled or watched.covered)):
            self._put_later(job, 0.0)
            return
        self.after_start(job.user)

    async def _fill_gap(self, job: Job, chain: Chain, gap: Gap) -> None:
        watched = self._watched.get(job.user)
        if watched is None or watched.chains.get(chain.coin) is not chain or gap.status is not GapStatus.OPEN:
            return
        await self._fetch(job.user, gap.from_ms, gap.to_ms, "live")
        await self._writer.settled(job.user)
        if gap.status is GapStatus.OPEN:
            chain.recount(gap, await self._stored(chain, gap))
        if gap.status is GapStatus.OPEN:
            chain.note_try(gap)
        if gap.status is GapStatus.OPEN:
            self._put_later(job, TRY_AFTER_S[min(gap.tries, len(TRY_AFTER_S)) - 1])
        self._writer.touch(job.user, chain)

    async def _stored(self, chain: Chain, gap: Gap) -> list[Fill]:
        rows = await self._database.query(
            sql.READ_FILLS_BETWEEN, chain.user, market_of(chain.coin), gap.from_ms, gap.to_ms
        )
        return [venue.parse_fill(row["raw"].encode(), chain.user) for row in rows]

    async def _fetch(self, user: str, start_ms: int, end_ms: int | None, priority: Priority) -> tuple[int, int]:
        """All pages; returns how many fills came, and the newest time."""
        items, newest_ms, at_ms = 0, 0, start_ms
        while True:
            told = await self._info.fetch_fills(user, at_ms, end_ms, priority)
            times_ms = sorted(fill.time_ms for fill in told.fills)
            self.found_total += await self._intake.fetched(told)
            items += len(times_ms)
            newest_ms = max([newest_ms, *times_ms])
            page = len(told.fills) + len(told.failures)
            if page < venue.FILLS_PAGE_MAX or not times_ms:
                return items, newest_ms
            after_ms = venue.next_page(at_ms, times_ms) if page == len(times_ms) else max(times_ms[-1], at_ms + 1)
            if after_ms is None:
                return items, newest_ms
            if times_ms[0] == times_ms[-1]:
                log.warning("a page of one time: going on after it", extra={"account": user, "time_ms": times_ms[0]})
            at_ms = after_ms
