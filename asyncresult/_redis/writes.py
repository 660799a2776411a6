"""Storing in Redis: one script, and a job that fills with records until its turn comes.

All that is stored within a moment leaves in one round trip, ten records with each call of the script. A record that
fails in company is sent again alone, so that its neighbours do not fail with it and the error is its own. A batch whose
connection is lost twice in a row is sent in halves, down to single records (see :mod:`.pump`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from hashlib import sha1
from typing import Any

from ..errors import BackendClosed, BackendError
from ..states import READY_STATES
from .connection import Command
from .errors import reply_error
from .exceptions import NoScriptError
from .pump import Job

__all__ = ["RECORDS_PER_CALL", "Script", "Write", "WriteBatch", "fail", "settle"]

# For each record seven ARGV: payload; seconds to keep ('' for ever); '1' if the state is final; the digest of an old
# record that the caller has looked at and allows to be replaced ('' if none); '1' if nothing may be stored where
# its second key exists; how many records to keep in the stream at its last key; the number of the attempt, if a record
# of a later one is to stay ('' if not). And its KEYS: the record's own, the
# second, the stream; the latter two only where they are needed.
# Returns for each: 1 stored; 0 the second key exists; 2 the caller decides: the old record seems to have precedence, or
# cannot be read here (compressed, or another serializer); 3 failed (then alone; a single record's error is the reply).
# That it seems so is not enough: a record that is cut short, or is another task's, protects nothing, and only the
# codec can say. The status comes first in every document that Celery or this package writes; a document in which
# the word occurs a second time is decoded, since of two fields with one name the last one counts.
_SCRIPT = b"""
local function store(key, second, stream, payload, seconds, final, seen, count, attempt)
  if second and redis.call('EXISTS', second) == 1 then return 0 end
  local old = redis.call('GET', key)
  if old and old ~= '' and old ~= payload and (seen == '' or redis.sha1hex(old) ~= seen) then
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
    redis.call('SET', key, payload, 'EX', seconds)
  else
    redis.call('SET', key, payload)
  end
  if stream then
    redis.call('XADD', stream, 'MAXLEN', count, '*', 'record', payload)
    if seconds ~= '' then redis.call('EXPIRE', stream, seconds) end
  end
  redis.call('PUBLISH', key, payload)
  return 1
end
local results = {}
local k = 0
local function next_key()
  k = k + 1
  return KEYS[k]
end
for a = 1, #ARGV, 7 do
  local payload, seconds, final, seen, has_second, count, attempt = unpack(ARGV, a, a + 6)
  local key = next_key()
  local second = has_second == '1' and next_key()
  local stream = count ~= '0' and next_key()
  local result
  if #ARGV == 7 then
    result = store(key, second, stream, payload, seconds, final, seen, count, attempt)
  else
    local ok
    ok, result = pcall(store, key, second, stream, payload, seconds, final, seen, count, attempt)
    if not ok then result = 3 end
  end
  results[#results + 1] = result
end
return results
"""
_KEPT, _STORED, _YOU_DECIDE = 0, 1, 2

#: Records with each call. More gain nothing (benchmarks: store-1000).
RECORDS_PER_CALL = 10
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


class Write:
    """One write on its way.

    Args:
        keys: Its own; where nothing may be stored if another exists, that one; where it is to be kept, the stream.
        beside: Whether there is such another key, and how many to keep in the stream.
        attempt: The number of the attempt, if a record of a later one is to stay.
    """

    __slots__ = ("alone", "attempt", "beside", "expires", "future", "keys", "payload", "seen", "status")

    def __init__(
        self,
        future: asyncio.Future[bool],
        keys: tuple[bytes, ...],
        payload: bytes,
        status: str,
        expires: float | None,
        beside: tuple[int, int],
        attempt: int | None = None,
    ) -> None:
        self.future = future
        self.keys = keys
        self.payload = payload
        self.status = status
        self.expires = expires
        self.beside = beside
        self.attempt = attempt
        self.seen = b""
        self.alone = len(keys) > 1

    @property
    def arguments(self) -> tuple[Any, ...]:
        seconds = "" if self.expires is None else int(self.expires)
        attempt = "" if self.attempt is None else self.attempt
        return self.payload, seconds, int(self.status in READY_STATES), self.seen, *self.beside, attempt


class WriteBatch(Job):
    """Records that leave together.

    Args:
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
        script: Script,
        per_call: int,
        again: Callable[[Write], None],
        look: Callable[[Write], None],
        *,
        address: str,
        patience: float | None,
    ) -> None:
        super().__init__([], self._answered, self._unanswered, patience)
        self._script = script
        self._per_call = per_call
        self._again = again
        self._look = look
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + FILLING
        self._open = True
        self._writes: list[Write] = []
        self._calls: list[list[Write]] = []

    def add(self, write: Write) -> bool:
        """Take ``write`` along, unless it is too late for that."""
        if not self._open or len(self._writes) >= RECORDS_PER_JOB or self._loop.time() > self._until:
            return False
        self._writes.append(write)
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
        self.commands = []
        for call in self._calls:
            keys = [key for write in call for key in write.keys]
            arguments = [argument for write in call for argument in write.arguments]
            self.commands.append((*self._script.command(), len(keys), *keys, *arguments))

    def _answered(self, replies: list[Any]) -> None:
        for call, reply in zip(self._calls, replies, strict=True):
            if isinstance(reply, list):
                for write, result in zip(call, reply, strict=True):
                    if result in (_STORED, _KEPT):
                        settle(write.future, result == _STORED)
                    elif result == _YOU_DECIDE:
                        self._look(write)
                    else:
                        self._send_alone(write)
            elif isinstance(reply, NoScriptError):  # the server was restarted, or is another one
                self._script.known = False
                for write in call:
                    self._again(write)
            elif len(call) > 1:
                for write in call:
                    self._send_alone(write)
            else:
                error = reply_error(reply, self._address)
                fail(call[0].future, error or BackendError(f"{self._address}: unexpected reply to the store script"))
        self._let_go()

    def _send_alone(self, write: Write) -> None:
        write.alone = True
        self._again(write)

    def _unanswered(self, error: BackendError | BackendClosed) -> None:
        self._open = False
        for write in [*self._writes, *(write for call in self._calls for write in call)]:
            fail(write.future, error)
        self._let_go()

    def _let_go(self) -> None:
        """Whoever filled this job keeps it until the next one, but not what was in it."""
        self._writes, self._calls, self.commands = [], [], []


def settle(future: asyncio.Future[Any], value: Any) -> None:
    """Resolve ``future``, unless nobody wants it any more."""
    if not future.done():
        future.set_result(value)


def fail(future: asyncio.Future[Any], error: Exception) -> None:
    """Have ``future`` raise, unless nobody wants it any more."""
    if not future.done():
        future.set_exception(error)
