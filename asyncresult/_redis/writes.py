"""Storing in Redis: one script, and a job that fills with records until its turn comes.

All that is stored within a moment leaves in one round trip, fifty records with each call of the script. A record that
fails in company is sent again alone, so that its neighbours do not fail with it and the error is its own. A batch whose
connection is lost twice in a row is sent in halves, down to single records (see :mod:`.pump`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from hashlib import sha1
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from .._storage.engine import Outcome
from ..errors import AsyncResultError, BackendClosed, BackendError, ResultEncodeError, copy_error
from ..states import READY_STATES
from .errors import reply_error
from .exceptions import BulkLengthError, NoScriptError
from .packing import Command
from .pump import Job

__all__ = ["RECORDS_PER_CALL", "OneOfMany", "Outcomes", "Script", "Terms", "Write", "WriteBatch", "fail", "settle"]

# ARGV, for records in a row that are stored on the same terms: how many these are; seconds to keep them ('' forever);
# '1' if the state is final; the digest of an old record that the caller has looked at and allows to be replaced ('' if
# none), or '>' and the bytes beyond which it may be any; '1' if nothing may be stored where its second key exists; how
# many records to keep in the stream at its last key; the number of the attempt, if a record of a later one is to stay
# ('' if not). Then the payloads.
# KEYS, for each record: its own, the second, the stream; the latter two only where they are needed.
# Returns how many records there are, if all were stored. Else for each: 1 stored; 0 the second key exists; 2 the
# caller decides: the old record seems to have precedence, or cannot be read here (compressed, or another serializer);
# 3 failed (then alone; a single record's error is the reply).
# That it seems so is not enough: a record that is cut short, or is another task's, protects nothing, and only the
# codec can say. The status comes first in every document that Celery or this package writes; a document in which
# the word occurs a second time is decoded, since of two fields with one name the last one counts.
# What a key holds beside a record or a stream of them is not ours. Under the record's own key it looks like nothing to
# MGET, and is replaced, as SET replaces it for every other writer; under the stream's it costs the history.
# (Tried: SET with NX before GET. It costs more where there is a record of STARTED than it gains where there is none.)
_SCRIPT = b"""
local call = redis.call
local function is_seen(old, seen)
  if string.byte(seen) == 62 then return #old > tonumber(string.sub(seen, 2)) end
  return redis.sha1hex(old) == seen
end
local function of_its_type(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' then return reply end
  if string.find(reply.err, 'WRONGTYPE', 1, true) == 1 then return false end
  return call(...)
end
local function store(key, second, stream, payload, seconds, final, seen, count, attempt)
  if second and call('EXISTS', second) == 1 then return 0 end
  local old = of_its_type('GET', key)
  if old and old ~= '' and old ~= payload and not (seen ~= '' and is_seen(old, seen)) then
    local status = string.match(old, '^{"status": ?"([^"\\\\]*)"')
    if not status or string.find(old, '"status"', 10, true) then
      if string.byte(old) ~= 123 then return 2 end
      local ok, record = pcall(cjson.decode, old)
      if not ok then return 2 end
      status = record['status']
    end
    if status == 'SUCCESS' or (final ~= '1' and (status == 'FAILURE' or status == 'REVOKED')) then return 2 end
    if attempt ~= '' then
      for retries in string.gmatch(old, '"retries": ?(%d+)') do
        if tonumber(retries) > tonumber(attempt) then return 2 end
      end
    end
  end
  if seconds ~= '' then
    call('SET', key, payload, 'EX', seconds)
  else
    call('SET', key, payload)
  end
  if stream and of_its_type('XADD', stream, 'MAXLEN', count, '*', 'record', payload) and seconds ~= '' then
    call('EXPIRE', stream, seconds)
  end
  call('PUBLISH', key, payload)
  return 1
end
local results = {}
local stored = 0
local k = 0
local function next_key()
  k = k + 1
  return KEYS[k]
end
local a = 1
while a <= #ARGV do
  local records, seconds, final, seen, has_second, count, attempt = unpack(ARGV, a, a + 6)
  a = a + 7
  for _ = 1, records do
    local key = next_key()
    local second = has_second == '1' and next_key()
    local stream = count ~= '0' and next_key()
    local result
    if #ARGV == 8 then
      result = store(key, second, stream, ARGV[a], seconds, final, seen, count, attempt)
    else
      local ok
      ok, result = pcall(store, key, second, stream, ARGV[a], seconds, final, seen, count, attempt)
      if not ok then result = 3 end
    end
    results[#results + 1] = result
    if result == 1 then stored = stored + 1 end
    a = a + 1
  end
end
if stored == #results then return stored end
return results
"""
_KEPT, _STORED, _YOU_DECIDE = 0, 1, 2

#: Records with each call: 0.2 ms of the server's time. More gain nothing (benchmarks: store-many-1000).
RECORDS_PER_CALL = 50
#: Bytes of payloads after which a call takes no more.
BYTES_PER_CALL = 64 * 1024
#: Records that a job takes.
RECORDS_PER_JOB = 1000
#: Seconds that a job takes records. While the server is away it would go on, and all share the patience of the first.
FILLING = 0.05


class Script:
    """The script as a command, by its digest once the server knows it."""

    def __init__(self, publish: str) -> None:
        text = _SCRIPT.replace(b"'PUBLISH'", f"'{publish}'".encode())
        self._whole = ("EVAL", text)
        self._by_digest = ("EVALSHA", sha1(text, usedforsecurity=False).hexdigest())
        self.known = False

    def command(self) -> Command:
        command, self.known = self._by_digest if self.known else self._whole, True
        return command


class Terms(NamedTuple):
    """How a record is to be stored: ARGV of the script, in its order, in front of the payloads of all that share it."""

    seconds: int | str
    final: int
    seen: bytes | str
    second: int
    kept: int
    attempt: int | str

    @classmethod
    def of(cls, status: str, expires: float | None, *, second: bool, kept: int, attempt: int | None) -> Terms:
        """Those of a new record.

        Args:
            second: Whether there is a key beside its own that must not exist.
            kept: How many records to keep in the stream; 0 where there is none.
            attempt: The number of the attempt, if a record of a later one is to stay.
        """
        seconds = "" if expires is None else int(expires)
        return cls(seconds, int(status in READY_STATES), "", int(second), kept, "" if attempt is None else attempt)


class Write:
    """One write on its way.

    Args:
        keys: Its own; where nothing may be stored if another exists, that one; where it is to be kept, the stream.
    """

    __slots__ = ("_future", "alone", "keys", "payload", "status", "terms")

    def __init__(
        self, future: asyncio.Future[Any] | None, keys: tuple[bytes, ...], payload: bytes, status: str, terms: Terms
    ) -> None:
        self._future = future
        self.keys = keys
        self.payload = payload
        self.status = status
        self.terms = terms
        self.alone = len(keys) > 1

    def end(self, outcome: Outcome) -> None:
        """It was stored, or there was no need, or it failed."""
        assert self._future is not None
        if isinstance(outcome, BaseException):
            fail(self._future, outcome)
        else:
            settle(self._future, outcome)


class Outcomes:
    """The outcomes of many writes: one future for all of them, which never raises.

    Args:
        future: Gets them, in the order of the writes.
        count: How many writes.
    """

    __slots__ = ("_future", "_missing", "_outcomes")

    def __init__(self, future: asyncio.Future[list[Outcome]], count: int) -> None:
        self._future = future
        self._missing = count
        self._outcomes: list[Outcome] = [False] * count

    def put(self, number: int, outcome: Outcome) -> None:
        self._outcomes[number] = outcome
        self._missing -= 1
        if not self._missing:
            settle(self._future, self._outcomes)


class OneOfMany(Write):
    """A write that shares its future with others."""

    __slots__ = ("_number", "_outcomes")

    def __init__(self, outcomes: Outcomes, number: int, key: bytes, payload: bytes, status: str, terms: Terms) -> None:
        super().__init__(None, (key,), payload, status, terms)
        self._outcomes = outcomes
        self._number = number

    def end(self, outcome: Outcome) -> None:
        self._outcomes.put(self._number, outcome)


class WriteBatch(Job):
    """Records that leave together.

    Args:
        writes: The first ones.
        script: The script.
        per_call: Records with each call.
        again: Takes a write that is to be sent again.
        look: Takes a write whose predecessor the script cannot read.
        address: For messages.
        patience: As for any job.
    """

    __slots__ = (
        "_address",
        "_again",
        "_calls",
        "_look",
        "_loop",
        "_open",
        "_per_call",
        "_script",
        "_until",
        "_writes",
    )

    def __init__(
        self,
        writes: Sequence[Write],
        script: Script,
        per_call: int,
        again: Callable[[Write], None],
        look: Callable[[Write], None],
        *,
        address: str,
        patience: float | None,
    ) -> None:
        super().__init__([], patience)
        self._script = script
        self._per_call = per_call
        self._again = again
        self._look = look
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + FILLING
        self._open = True
        self._writes = list(writes)
        self._calls: list[list[Write]] = []

    def add(self, *writes: Write) -> bool:
        """Take ``writes`` along, unless it is too late for that."""
        if not self._open or len(self._writes) >= RECORDS_PER_JOB or self._loop.time() > self._until:
            return False
        self._writes += writes
        return True

    def leave(self) -> None:
        if self._open:
            self._open = False
            self._fill_calls()
            self._pack()
        elif self.losses and len(self._calls) == 1:  # lost when it was alone: a call for each record
            self._calls = [[write] for write in self._calls[0]]
            self._pack()

    def split(self, size: int) -> Sequence[Job]:
        parts = []
        for i in range(0, len(self._calls), size):
            part = WriteBatch(
                (),
                self._script,
                self._per_call,
                self._again,
                self._look,
                address=self._address,
                patience=self.patience,
            )
            part.deadline = self.deadline
            part._open = False
            part._calls, part.commands = self._calls[i : i + size], self.commands[i : i + size]
            parts.append(part)
        self._let_go()
        return parts

    def _fill_calls(self) -> None:
        call: list[Write] = []
        size = 0
        for write in self._writes:
            if call and (len(call) >= self._per_call or size >= BYTES_PER_CALL or write.alone or call[0].alone):
                call = []
            if not call:
                self._calls.append(call)
                size = 0
            call.append(write)
            size += len(write.payload)
        self._writes.clear()

    def _pack(self) -> None:
        self.commands = [self._command(call) for call in self._calls]

    def _command(self, call: list[Write]) -> Command:
        keys = [key for write in call for key in write.keys]
        arguments: list[Any] = []
        for terms, writes in groupby(call, attrgetter("terms")):
            payloads = [write.payload for write in writes]
            arguments += (len(payloads), *terms, *payloads)
        return (*self._script.command(), len(keys), *keys, *arguments)

    def done(self, replies: list[Any]) -> None:
        for call, reply in zip(self._calls, replies, strict=True):
            if reply == len(call):
                for write in call:
                    write.end(True)
            elif isinstance(reply, list):
                for write, result in zip(call, reply, strict=True):
                    if result in (_STORED, _KEPT):
                        write.end(result == _STORED)
                    elif result == _YOU_DECIDE:
                        self._look(write)
                    elif len(call) > 1:
                        self._send_alone(write)
                    else:  # no answer of the script's
                        write.end(BackendError(f"{self._address}: unexpected reply to the store script"))
            elif isinstance(reply, NoScriptError):  # the server was restarted, or is another one
                self._script.known = False
                for write in call:
                    self._again(write)
            elif len(call) > 1:
                for write in call:
                    self._send_alone(write)
            elif isinstance(reply, BulkLengthError):
                call[0].end(_too_large(call[0]))
            else:
                error = reply_error(reply, self._address)
                call[0].end(error or BackendError(f"{self._address}: unexpected reply to the store script"))
        self._let_go()

    def _send_alone(self, write: Write) -> None:
        write.alone = True
        self._again(write)

    def failed(self, error: BackendError | BackendClosed) -> None:
        self._open = False
        for write in [*self._writes, *(write for call in self._calls for write in call)]:
            write.end(error)
        self._let_go()

    def _let_go(self) -> None:
        """Whoever filled this job keeps it until the next one, but not what was in it."""
        self._writes, self._calls, self.commands = [], [], []


def _too_large(write: Write) -> ResultEncodeError:
    size = f"{len(write.payload):,} bytes"
    return ResultEncodeError(f"the record cannot be stored in Redis, whose proto-max-bulk-len is less than its {size}")


def settle(future: asyncio.Future[Any], value: Any) -> None:
    """Resolve ``future``, unless nobody wants it any more."""
    if not future.done():
        future.set_result(value)


def fail(future: asyncio.Future[Any], error: BaseException) -> None:
    """Have ``future`` raise, unless nobody wants it any more. Whom else the error ends gets another instance."""
    if not future.done():
        future.set_exception(copy_error(error) if isinstance(error, AsyncResultError) else error)
