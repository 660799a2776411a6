"""The subscription connection without I/O: bytes in, events out; wishes in, bytes out.

Theory of operation
-------------------

A :class:`Wire` is one life of one connection. It is made, :meth:`Wire.start` gives the first bytes, and
from then on :meth:`Wire.receive` turns what came in into messages and events, while :meth:`Wire.subscribe`,
:meth:`Wire.unsubscribe` and :meth:`Wire.ping` note what is wanted and :meth:`Wire.data_to_send` gives the
bytes for it. Nothing here waits, retries or knows the time; a broken wire is thrown away.

The handshake, by what was sent and how the server answered; :data:`_HANDSHAKE` is the same table as code:

===== ========= ====== ==========================================================================
sent  answer    then
===== ========= ====== ==========================================================================
HELLO accepted  ready  in RESP3
HELLO refused   denied
HELLO unknown   login  a server before Redis 6, or a proxy without RESP3: AUTH, in RESP2
HELLO forbidden login  a user without +hello
HELLO broken    lost   LOADING, "max number of clients reached": the server's trouble, which passes
AUTH  accepted  ready  in RESP2
AUTH  refused   denied
AUTH  unknown   lost   no server lacks AUTH and PING
AUTH  forbidden ready  a user without +ping is logged in all the same
AUTH  broken    lost
===== ========= ====== ==========================================================================

AUTH is a PING where there is no password. *ready* and *denied* are the events :class:`Ready` and :class:`Denied`,
*lost* is a :class:`ProtocolError`, as is anything out of order. Once it is ready, an error in answer to fresh
credentials is :class:`Denied` as well.

    "If we specify a connection version that is too big and unsupported by the server, it should reply with a -NOPROTO
    error. […] Similarly, the client can easily detect a server that is only able to speak RESP2: […] -ERR unknown
    command 'HELLO'" (Redis serialization protocol specification, "Client handshake")

Redis answers strictly in order, so the commands in flight are kept in one queue (``_sent``), and every
acknowledgement or error belongs to its head. One command names up to 1,000 channels and is answered by
one acknowledgement each; an error answers the whole command.

An acknowledgement of SUBSCRIBE is only reported when no later command about the same channel is in
flight: in SUBSCRIBE a, UNSUBSCRIBE a, SUBSCRIBE a the first acknowledgement promises nothing, because the
channel is about to be unsubscribed once more. ``_unacknowledged`` counts the commands in flight per channel.

Everything written to a subscribed client counts against Redis' ``client-output-buffer-limit pubsub``,
acknowledgements included. A window on the commands in flight keeps a million channels from closing the
connection that requests them.

Source: Redis protocol specification (RESP2 and RESP3), SUBSCRIBE and HELLO command pages (Redis 7).
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable
from itertools import islice

import hiredis

from .._storage.keys import slot_of
from .packing import KeysCommand, pack

__all__ = [
    "Acked",
    "Denied",
    "Dropped",
    "Event",
    "Pong",
    "ProtocolError",
    "Ready",
    "Refused",
    "Wire",
    "in_plain_words",
    "refuses_the_login",
]

#: Channels a command. More gain nothing, and one refused channel takes the whole command with it.
CHANNELS_PER_COMMAND = 1000
#: Characters of a server's sentence that an error shows.
EXCERPT = 300
_BYTES = {bytes}
#: Bytes that hiredis may have beside the one string that is under way: it lets go of what it has read in steps.
SPARE_BYTES = 64 * 1024
#: Channels in flight: so many acknowledgements are about 1.5 MB, far from the limit of 8 MB for 60 s.
CHANNELS_IN_FLIGHT = 16_000


class ProtocolError(Exception):
    """The peer does not speak the protocol, or sent a reply to no command. The connection is lost."""


class Event:
    """What happened. Plain classes: six dataclasses were most of what importing this module took."""

    __slots__ = ("channels", "reason")

    def __init__(self, channels: list[bytes] | None = None, reason: str = "") -> None:
        self.channels: list[bytes] = channels if channels is not None else []
        self.reason = reason

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        assert isinstance(other, Event)
        return (self.channels, self.reason) == (other.channels, other.reason)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.channels!r}, {self.reason!r})"


class Ready(Event):
    """The handshake is over; what was wished for is being sent."""

    __slots__ = ()


class Denied(Event):
    """The server refuses the credentials. ``reason`` is its answer and holds no secret."""

    __slots__ = ()

    def __init__(self, reason: str) -> None:
        super().__init__(None, reason)


class Acked(Event):
    """From now on every message on these channels arrives here."""

    __slots__ = ()


class Refused(Event):
    """A SUBSCRIBE of these channels was answered with an error, whose text is ``reason``."""

    __slots__ = ()


class Dropped(Event):
    """The server itself ended these subscriptions (a cluster moved their slot)."""

    __slots__ = ()


class Pong(Event):
    """The answer to a PING."""

    __slots__ = ()


#: What a command in flight is about, if not about channels.
_HELLO, _AUTH, _PING, _DONT_CARE = "HELLO", "AUTH", "PING", "any"

#: Kinds of replies in the handshake, see :func:`_kind`.
_ACCEPTED, _REFUSED, _UNKNOWN, _FORBIDDEN, _BROKEN = "accepted", "refused", "unknown", "forbidden", "broken"

#: What was sent, how it was answered, and what follows: see the table at the top of the file.
_HANDSHAKE = {
    (_HELLO, _ACCEPTED): "ready",
    (_HELLO, _REFUSED): "denied",
    (_HELLO, _UNKNOWN): "login",
    (_HELLO, _FORBIDDEN): "login",
    (_HELLO, _BROKEN): "lost",
    (_AUTH, _ACCEPTED): "ready",
    (_AUTH, _REFUSED): "denied",
    (_AUTH, _UNKNOWN): "lost",
    (_AUTH, _FORBIDDEN): "ready",
    (_AUTH, _BROKEN): "lost",
}


def _kind(reason: str | None) -> str:
    """What a reply in the handshake says; ``reason`` is the text of an error.

    HELLO is unknown before Redis 6 ("ERR unknown command"), and refused by proxies without RESP3: "NOPROTO", or "ERR
    Protocol version is not an integer or out of range".
    """
    if reason is None:
        return _ACCEPTED
    if refuses_the_login(reason):
        return _REFUSED
    if reason.startswith("NOPERM"):
        return _FORBIDDEN
    if reason.startswith(("NOPROTO", "ERR unknown command", "ERR Protocol")):
        return _UNKNOWN
    return _BROKEN


_REFUSALS_OF_THE_LOGIN = (
    "DENIED",
    "NOAUTH",
    "WRONGPASS",
    "ERR invalid password",
    "ERR AUTH",
    "ERR Client sent AUTH",
    "ERR Protocol error: unauthenticated",
)


def refuses_the_login(reason: str) -> bool:
    """Whether an error refuses user or password, or requires them.

    "WRONGPASS invalid username-password pair or user is disabled.", "NOAUTH Authentication required." Before Redis 6
    "ERR invalid password", and for a password where the server has none "ERR Client sent AUTH, but no password is set"
    or "ERR AUTH <password> called without any password configured for the default user. Are you sure …". To a
    command of more than ten words before the login: "ERR Protocol error: unauthenticated multibulk length". In place of
    the first reply, where no password is set and the connection comes from another machine: "DENIED Redis is running in
    protected mode because …".
    """
    return reason.startswith(_REFUSALS_OF_THE_LOGIN)


def in_plain_words(text: str) -> str:
    """A server's sentence, fit to be shown: printable, short, and without the words of our command.

    "ERR unknown command 'AUTH', with args beginning with: 'user' 'password'" would show a password.
    """
    text = text.partition(", with args beginning with")[0]
    return "".join(char if char.isprintable() else " " for char in text[:EXCERPT])


class _About:
    """A (S)SUBSCRIBE or (S)UNSUBSCRIBE command and what of it is not answered yet."""

    __slots__ = ("channels", "left", "subscribing")

    def __init__(self, channels: list[bytes], subscribing: bool) -> None:
        self.channels = channels
        self.subscribing = subscribing
        self.left = len(channels)


def _by_slot(channels: Iterable[bytes]) -> Iterable[list[bytes]]:
    """All channels of a SSUBSCRIBE must live in one slot."""
    groups: dict[int, list[bytes]] = {}
    for channel in channels:
        groups.setdefault(slot_of(channel), []).append(channel)
    return groups.values()


class Wire:
    """One connection's protocol state.

    Args:
        username, password: Credentials; a password alone is the default user's.
        client_name: Shown by CLIENT LIST.
        library: Name and version for CLIENT SETINFO.
        resp3: Whether to try RESP3 first. A server that refuses it is spoken to in RESP2.
        sharded: Speak SSUBSCRIBE instead of SUBSCRIBE (Redis Cluster 7, shard channels).
        largest: Bytes of a message that is taken in. A larger one ends the connection before it is an object, which
            would stop the loop; by the server's default limits it does so itself. The key is read by the next one.
    """

    def __init__(
        self,
        *,
        username: str | None = None,
        password: str | None = None,
        client_name: str | None = None,
        library: tuple[str, str] | None = None,
        resp3: bool = True,
        sharded: bool = False,
        largest: int = sys.maxsize - SPARE_BYTES,
    ) -> None:
        self.resp3 = resp3
        self.ready = False
        self.sharded = sharded
        self._username = username
        self._password = password
        self._client_name = client_name
        self._library = library
        self._most = largest + SPARE_BYTES
        s = b"s" if sharded else b""
        self._message = s + b"message"
        self._acks = {s + b"subscribe": True, s + b"unsubscribe": False}
        self._verbs = {subscribing: verb.decode().upper() for verb, subscribing in self._acks.items()}
        # hiredis answers False for "not yet"; RESP3 has a boolean false of its own, so request another.
        self._not_yet = object()
        self._reader = hiredis.Reader(notEnoughData=self._not_yet)
        self._sent: deque[_About | str] = deque()
        self._wished: deque[_About] = deque()
        self._in_flight = 0
        self._unacknowledged: dict[bytes, int] = {}
        self._out: list[bytes] = []

    # -- wishes in, bytes out -------------------------------------------------------------------------

    def start(self) -> bytes:
        """The first bytes of the connection."""
        if self.resp3:
            hello: list[str] = ["HELLO", "3"]
            if self._password is not None:
                hello += ["AUTH", self._username or "default", self._password]
            self._command(_HELLO, *hello)
        else:
            self._login()
        return self.data_to_send()

    def subscribe(self, channels: Iterable[bytes]) -> None:
        """Wish for ``channels``; an :class:`Acked` follows for each that is not given up again."""
        self._wish(channels, subscribing=True)

    def unsubscribe(self, channels: Iterable[bytes]) -> None:
        """Give ``channels`` up."""
        self._wish(channels, subscribing=False)

    def ping(self) -> None:
        """Send a PING."""
        self._command(_PING, "PING")

    def login_again(self, username: str | None, password: str) -> None:
        """Send fresh credentials on the living connection (RESP3 only: RESP2 forbids AUTH while subscribed)."""
        self._username, self._password = username, password
        self._auth()

    def data_to_send(self) -> bytes:
        """The bytes to write now, possibly none. Call after every wish and every :meth:`receive`."""
        while self._wished and self.ready and self._in_flight < CHANNELS_IN_FLIGHT:
            about = self._wished.popleft()
            self._in_flight += about.left
            self._sent.append(about)
            self._out.append(pack(KeysCommand((self._verbs[about.subscribing], *about.channels))))
        if not self._out:
            return b""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def _wish(self, channels: Iterable[bytes], *, subscribing: bool) -> None:
        pending = self._unacknowledged
        for group in _by_slot(channels) if self.sharded else (channels,):
            remaining = iter(group)
            while chunk := list(islice(remaining, CHANNELS_PER_COMMAND)):
                for channel in chunk:
                    pending[channel] = pending.get(channel, 0) + 1
                self._wished.append(_About(chunk, subscribing))

    def _command(self, expects: str, *words: str) -> None:
        self._sent.append(expects)
        # surrogateescape: a password given as undecodable bytes in a URL arrives as it was meant.
        self._out.append(pack(tuple(word.encode("utf-8", "surrogateescape") for word in words)))

    def _auth(self) -> None:
        user = [self._username] if self._username else []
        self._command(_AUTH, "AUTH", *user, self._password or "")

    def _login(self) -> None:
        """The RESP2 way in."""
        self.resp3 = False
        if self._password is not None:
            self._auth()
        else:
            self._command(_AUTH, "PING")  # without credentials there is no other answer to wait for

    def _introduce(self) -> None:
        """Say who we are; old servers and strict users may refuse, which changes nothing."""
        if self._client_name:
            self._command(_DONT_CARE, "CLIENT", "SETNAME", self._client_name)
        if self._library:
            self._command(_DONT_CARE, "CLIENT", "SETINFO", "LIB-NAME", self._library[0])
            self._command(_DONT_CARE, "CLIENT", "SETINFO", "LIB-VER", self._library[1])

    # -- bytes in, events out -------------------------------------------------------------------------

    def receive(self, data: bytes | memoryview) -> tuple[list[bytes], list[Event]]:
        """Take in ``data``.

        Returns:
            The messages, in order: channel and payload in turn, in one list, since a list of its own for each would
            keep the garbage collector busy (benchmarks: join). And the events, in order. A message never depends
            on an event that comes after it.

        Raises:
            ProtocolError: The connection is of no use any more.
        """
        messages: list[bytes] = []
        events: list[Event] = []
        not_yet, message = self._not_yet, self._message
        try:
            self._reader.feed(data)  # type: ignore[arg-type]  # it takes every buffer
            gets = self._reader.gets
            # The hot loop: 0.5 us a message (benchmarks: raw).
            while (reply := gets()) is not not_yet:
                if isinstance(reply, list) and len(reply) == 3 and reply[0] == message:
                    messages += (reply[1], reply[2])
                else:
                    self._other(reply, events)
        except (hiredis.ProtocolError, TypeError) as error:
            # TypeError: an array or a map where a name belongs cannot be looked up, by hiredis or by us.
            raise ProtocolError("the peer does not speak the Redis protocol") from error
        # hiredis takes each string off its buffer once it is whole.
        if self._reader.len() > self._most:
            raise ProtocolError("a message is larger than max_result_bytes")
        # At C speed, and not for each: a message is a channel and a payload, both of them bulk strings.
        if messages and set(map(type, messages)) != _BYTES:
            raise ProtocolError("a message whose channel or payload is not a string")
        return messages, events

    def _other(self, reply: object, events: list[Event]) -> None:
        if isinstance(reply, list) and len(reply) == 3 and (kind := self._acks.get(reply[0])) is not None:
            self._acknowledgement(kind, reply[1], events)
        elif isinstance(reply, hiredis.PushNotification):
            pass  # RESP3 may push what was not requested (invalidations, maintenance)
        elif not self._sent:
            # The one thing a server says unasked, before it hangs up: "max number of clients reached".
            raise ProtocolError(f"unsolicited reply{_shown(reply)}")
        else:
            self._answer(self._sent.popleft(), reply, events)

    def _acknowledgement(self, subscribing: bool, channel: bytes, events: list[Event]) -> None:
        """One channel of a command is answered.

        "subscribe: means that we successfully subscribed to the channel given as the second element in the reply."
        (Redis documentation, Pub/Sub, "Format of pushed messages".) There is one such reply for each channel of the
        command, in order. A cluster sends "sunsubscribe" unasked when the slot of the channel has moved.
        """
        if type(channel) is not bytes or (subscribing and channel not in self._unacknowledged):
            raise ProtocolError("unexpected subscription acknowledgement")
        head = self._sent[0] if self._sent else None
        # A server may end a subscription on its own while another one is being given up.
        unasked = self.sharded and not subscribing and isinstance(head, _About) and channel not in head.channels
        if not isinstance(head, _About) or head.subscribing is not subscribing or unasked:
            if subscribing:
                raise ProtocolError("unexpected subscription acknowledgement")
            events.append(Dropped([channel]))
            return
        head.left -= 1
        if not head.left:
            self._sent.popleft()
            self._in_flight -= len(head.channels)
        if self._settled(channel) and subscribing:
            if events and isinstance(events[-1], Acked):
                events[-1].channels.append(channel)
            else:
                events.append(Acked([channel]))

    def _settled(self, channel: bytes) -> bool:
        """Count one command about ``channel`` as answered; whether it was the last one."""
        left = self._unacknowledged.get(channel, 1) - 1
        if left:
            self._unacknowledged[channel] = left
            return False
        self._unacknowledged.pop(channel, None)
        return True

    def _answer(self, head: _About | str, reply: object, events: list[Event]) -> None:
        reason = in_plain_words(str(reply)) if isinstance(reply, hiredis.ReplyError) else None
        if isinstance(head, _About):
            if reason is None:
                raise ProtocolError("reply does not match the command in flight")
            self._in_flight -= len(head.channels)
            refused = [channel for channel in head.channels if self._settled(channel)]
            if head.subscribing:
                events.append(Refused(refused, reason))
        elif head is _PING:
            events.append(Pong())  # an error shows that the server answers, too: a user without +ping
        elif head in (_HELLO, _AUTH):
            self._handshake(head, reason, events)

    def _handshake(self, sent: str, reason: str | None, events: list[Event]) -> None:
        """One step of it; or, once the connection is established, the answer to fresh credentials."""
        following = _HANDSHAKE[sent, _kind(reason)]
        if self.ready:
            if reason is not None:
                events.append(Denied(reason))
        elif following == "ready":
            self._enter(events)
        elif following == "denied":
            events.append(Denied(reason or ""))
        elif following == "login":
            self._login()
        else:
            raise ProtocolError(reason or "the handshake failed")

    def _enter(self, events: list[Event]) -> None:
        self._introduce()
        self.ready = True
        events.append(Ready())


def _shown(reply: object) -> str:
    """An error in full; of any other reply its type only, since it may be somebody's record."""
    if isinstance(reply, hiredis.ReplyError):
        return f": {in_plain_words(str(reply))}"
    return f" of type {type(reply).__name__}"
