"""The wire: however the bytes are cut, the same messages and events; whatever the server says, a typed answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncresult._redis import wire as _wire
from asyncresult._redis.wire import Acked, Denied, Dropped, Event, Pong, ProtocolError, Ready, Refused, Wire
from asyncresult._storage.keys import slot_of

SECRET = "hunter2-and-more"
HELLO = b"%1\r\n$5\r\nproto\r\n:3\r\n"


def commands(sent: bytes) -> list[list[bytes]]:
    """The commands that the wire wrote."""
    reader = hiredis.Reader()
    reader.feed(sent)
    return list(iter(reader.gets, False))


def array(resp3: bool, *items: bytes | int) -> bytes:
    """A push, or what stands for it in RESP2."""
    packed = (b":%d\r\n" % i if isinstance(i, int) else b"$%d\r\n%s\r\n" % (len(i), i) for i in items)
    return b"%s%d\r\n" % (b">" if resp3 else b"*", len(items)) + b"".join(packed)


def ready(*, resp3: bool = True, sharded: bool = False) -> Wire:
    """A wire whose handshake is over."""
    wire = Wire(resp3=resp3, sharded=sharded)
    wire.start()
    assert wire.receive(HELLO if resp3 else b"+PONG\r\n") == ([], [Ready()])
    assert wire.data_to_send() == b""
    return wire


@pytest.mark.parametrize("resp3", [True, False])
@pytest.mark.parametrize("item", [b":5", b"_", b"$-1", b"*0", b"*1\r\n$1\r\na", b"#t", b",1.5", b"%0", b"~0"])
@pytest.mark.parametrize("kind", [b"message", b"subscribe"])
@pytest.mark.parametrize("place", [1, 2])
def test_a_frame_with_something_else_where_a_string_belongs(resp3: bool, kind: bytes, item: bytes, place: int) -> None:
    """A broken proxy: never an error out of :meth:`receive`, and never handed on."""
    wire = ready(resp3=resp3)
    wire.subscribe([b"a"])
    wire.data_to_send()
    frame = [b"$%d\r\n%s" % (len(kind), kind), b"$1\r\na", b"$1\r\nx" if kind == b"message" else b":1"]
    frame[place] = item
    try:
        messages, events = wire.receive(b"%s3\r\n%s\r\n" % (b">" if resp3 else b"*", b"\r\n".join(frame)))
    except ProtocolError:
        return
    assert (messages, kind, place) == ([], b"subscribe", 2), "how many subscriptions there are: nobody looks"
    assert events == [Acked([b"a"])]


def test_no_reply_is_quoted_in_an_error() -> None:
    with pytest.raises(ProtocolError) as caught:
        ready().receive(b"$12\r\nmy-own-value\r\n")
    assert "my-own-value" not in str(caught.value)
    wire = Wire(password=SECRET, resp3=False)
    wire.start()
    with pytest.raises(ProtocolError) as caught:
        wire.receive(b"-ERR unknown command `AUTH`, with args beginning with: `default`, `%s`\r\n" % SECRET.encode())
    assert "unknown command" in str(caught.value) and SECRET not in str(caught.value)


def acks(kind: bytes, channels: Iterable[bytes], *, resp3: bool = True) -> bytes:
    return b"".join(array(resp3, kind, channel, 1) for channel in channels)


# -- cut at every byte ------------------------------------------------------------------------------------------------

Step = tuple[list[bytes], list[bytes], bool, bytes]
"""Channels to subscribe, channels to give up, whether to ping, and what the server then says."""


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bool, list[Step]]:
    """What may be wished for, with the answers that a server would give, and what it may say beside."""
    resp3 = draw(st.booleans())
    channels = st.lists(st.sampled_from([b"a", b"bb", b"c\r\n", b"\xff\x00"]), min_size=1, max_size=3, unique=True)
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, 4))):
        wanted, unwanted = draw(channels | st.just([])), draw(channels | st.just([]))
        ping = draw(st.booleans())
        answers = []
        for kind, named in ((b"subscribe", wanted), (b"unsubscribe", unwanted)):
            if named and draw(st.integers(0, 4)) == 0:
                answers.append(b"-NOPERM this user has no permissions to access one of the channels\r\n")
            else:
                answers += [array(resp3, kind, channel, 1) for channel in named]
        if ping:
            pong = b"+PONG\r\n" if resp3 else draw(st.sampled_from([b"+PONG\r\n", array(False, b"pong", b"")]))
            answers.append(draw(st.sampled_from([pong, b"-NOPERM no ping for you\r\n"])))
        beside = [array(resp3, b"message", draw(st.sampled_from([b"a", b"other"])), draw(st.binary(max_size=20)))]
        if resp3:
            beside += [array(True, b"invalidate", b"key"), b">1\r\n+MOVING\r\n", b">2\r\n+x\r\n%1\r\n+a\r\n#t\r\n"]
        for said in draw(st.lists(st.sampled_from(beside), max_size=4)):
            answers.insert(draw(st.integers(0, len(answers))), said)
        steps.append((wanted, unwanted, ping, b"".join(answers)))
    return resp3, steps


def converse(resp3: bool, steps: list[Step], cut: Callable[[bytes], Iterator[bytes]]) -> tuple[list[Any], list[Event]]:
    """Go through a conversation, the server's bytes cut in pieces; the messages, and the events with joined acks."""
    wire = Wire(resp3=resp3)
    wire.start()
    greeting = HELLO if resp3 else b"+PONG\r\n"
    messages: list[Any] = []
    events: list[Event] = []
    for wanted, unwanted, ping, answer in [([], [], False, greeting), *steps]:
        if wanted:
            wire.subscribe(wanted)
        if unwanted:
            wire.unsubscribe(unwanted)
        wire.data_to_send()
        if ping:
            wire.ping()
            wire.data_to_send()
        for piece in cut(answer):
            more, happened = wire.receive(piece)
            messages += more
            for event in happened:
                if isinstance(event, Acked) and events and isinstance(events[-1], Acked):
                    events[-1].channels.extend(event.channels)
                else:
                    events.append(event)
    assert not wire._sent and not wire._unacknowledged and not wire._in_flight, "everything was answered"
    return messages, events


@settings(deadline=None)  # of one example; on a busy machine
@given(conversations())
def test_a_stream_cut_at_every_byte(conversation: tuple[bool, list[Step]]) -> None:
    """Byte by byte, and in two at each place: the same as uncut."""
    resp3, steps = conversation
    whole = converse(resp3, steps, lambda data: iter([data]))
    assert whole[1][0] == Ready()
    assert converse(resp3, steps, lambda data: (data[i : i + 1] for i in range(len(data)))) == whole
    for place in range(1, max(len(step[3]) for step in steps)):
        assert converse(resp3, steps, lambda data: iter([data[:place], data[place:]])) == whole  # noqa: B023


def test_a_large_message_in_small_pieces() -> None:
    wire = ready()
    payload = bytes(range(256)) * 4000
    data = array(True, b"message", b"a", payload)
    found = [message for i in range(0, len(data), 1000) for message in wire.receive(data[i : i + 1000])[0]]
    assert found == [b"a", payload]


# -- the handshake ----------------------------------------------------------------------------------------------------

DENIALS = [
    "WRONGPASS invalid username-password pair or user is disabled.",
    "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass>"
    " option can be used to authenticate the client and select the RESP protocol version at the same time",
    "ERR invalid password",
    "ERR AUTH <password> called without any password configured for the default user.",
    "ERR Client sent AUTH, but no password is set",
]
PASSING = [
    "LOADING Redis is loading the dataset in memory",
    "ERR max number of clients reached",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
]
NO_RESP3 = [
    "NOPROTO unsupported protocol version",
    f"ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `default`, `{SECRET}`",
    "NOPERM User default has no permissions to run the 'hello' command",
    "ERR Protocol version is not an integer or out of range",
]


def error(text: str) -> bytes:
    return b"-%s\r\n" % text.encode()


@pytest.mark.parametrize(
    ("credentials", "first"),
    [
        ((None, None), [b"HELLO", b"3"]),
        ((None, SECRET), [b"HELLO", b"3", b"AUTH", b"default", SECRET.encode()]),
        (("me", SECRET), [b"HELLO", b"3", b"AUTH", b"me", SECRET.encode()]),
        (("me", "\udcff"), [b"HELLO", b"3", b"AUTH", b"me", b"\xff"]),
    ],
)
def test_hello(credentials: tuple[str | None, str | None], first: list[bytes]) -> None:
    wire = Wire(username=credentials[0], password=credentials[1], client_name="web", library=("asyncresult", "1"))
    wire.subscribe([b"early"])
    assert commands(wire.start()) == [first], "nothing is wished for before the handshake is over"
    assert wire.receive(HELLO) == ([], [Ready()])
    assert wire.resp3
    assert commands(wire.data_to_send()) == [
        [b"CLIENT", b"SETNAME", b"web"],
        [b"CLIENT", b"SETINFO", b"LIB-NAME", b"asyncresult"],
        [b"CLIENT", b"SETINFO", b"LIB-VER", b"1"],
        [b"SUBSCRIBE", b"early"],
    ]
    said = b"+OK\r\n" + error("ERR unknown subcommand 'SETINFO'") + error("NOPERM no") + acks(b"subscribe", [b"early"])
    assert wire.receive(said) == ([], [Acked([b"early"])])


@pytest.mark.parametrize("refusal", NO_RESP3)
@pytest.mark.parametrize(
    ("credentials", "second", "answer"),
    [
        ((None, None), [b"PING"], b"+PONG\r\n"),
        ((None, None), [b"PING"], error("NOPERM User default has no permissions to run the 'ping' command")),
        ((None, SECRET), [b"AUTH", SECRET.encode()], b"+OK\r\n"),
        (("me", SECRET), [b"AUTH", b"me", SECRET.encode()], b"+OK\r\n"),
    ],
)
def test_a_server_without_resp3(
    refusal: str, credentials: tuple[str | None, str | None], second: list[bytes], answer: bytes
) -> None:
    wire = Wire(username=credentials[0], password=credentials[1])
    wire.start()
    assert wire.receive(error(refusal)) == ([], [])
    assert commands(wire.data_to_send()) == [second]
    assert wire.receive(answer) == ([], [Ready()])
    assert not wire.resp3


@pytest.mark.parametrize("resp3", [True, False])
@pytest.mark.parametrize("reason", DENIALS)
def test_denied(resp3: bool, reason: str) -> None:
    wire = Wire(password=SECRET, resp3=resp3)
    wire.start()
    assert wire.receive(error(reason)) == ([], [Denied(reason)])
    assert not wire.ready


@pytest.mark.parametrize("resp3", [True, False])
@pytest.mark.parametrize("password", [None, SECRET])
@pytest.mark.parametrize("reason", PASSING)
def test_trouble_of_the_server_is_no_denial(resp3: bool, password: str | None, reason: str) -> None:
    wire = Wire(password=password, resp3=resp3)
    wire.start()
    with pytest.raises(ProtocolError, match=reason.split()[0]):
        wire.receive(error(reason))


def test_a_password_is_required_and_there_is_none() -> None:
    wire = Wire(resp3=False)
    assert commands(wire.start()) == [[b"PING"]]
    assert wire.receive(error("NOAUTH Authentication required.")) == ([], [Denied("NOAUTH Authentication required.")])


ANSWERS = {
    "accepted": HELLO,
    "refused": error(DENIALS[0]),
    "unknown": error(NO_RESP3[1]),
    "forbidden": error("NOPERM User default has no permissions to run the command"),
    "broken": error(PASSING[0]),
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("sent", ["HELLO", "AUTH"])
@pytest.mark.parametrize("password", [None, SECRET])
def test_the_handshake_follows_its_table(sent: str, answer: str, password: str | None) -> None:
    wire = Wire(password=password, resp3=sent == "HELLO")
    wire.start()
    try:
        _, events = wire.receive(ANSWERS[answer])
    except ProtocolError:
        following = "lost"
    else:
        following = {Ready: "ready", Denied: "denied"}[type(events[0])] if events else "login"
    assert following == _wire._HANDSHAKE[sent, answer]
    assert wire.ready is (following == "ready")
    if following == "login":
        assert commands(wire.data_to_send()) == [[b"AUTH", SECRET.encode()] if password else [b"PING"]]
        assert wire.receive(b"+OK\r\n") == ([], [Ready()])


def test_the_table_of_the_handshake_is_the_documented_one() -> None:
    rows = re.findall(
        r"^(HELLO|AUTH) +(accepted|refused|unknown|forbidden|broken) +(\w+)", _wire.__doc__ or "", re.MULTILINE
    )
    assert {(sent, answer): then for sent, answer, then in rows} == _wire._HANDSHAKE
    assert len(rows) == 2 * len(ANSWERS)


def test_login_again() -> None:
    """Fresh credentials on a living connection, between other commands."""
    wire = ready()
    wire.login_again("me", SECRET)
    wire.ping()
    assert commands(wire.data_to_send()) == [[b"AUTH", b"me", SECRET.encode()], [b"PING"]]
    assert wire.receive(b"+OK\r\n+PONG\r\n") == ([], [Pong()])
    wire.login_again("me", SECRET)
    assert wire.receive(error("ERR whatever")) == ([], [Denied("ERR whatever")])


@pytest.mark.parametrize("resp3", [True, False])
@pytest.mark.parametrize("answer", [HELLO, b"+OK\r\n", *(error(text) for text in (*DENIALS, *PASSING, *NO_RESP3))])
def test_no_secret_is_shown(resp3: bool, answer: bytes) -> None:
    wire = Wire(username="me", password=SECRET, resp3=resp3)
    wire.start()
    shown = repr(wire)
    try:
        shown += repr(wire.receive(answer))
        wire.receive(b"*1\r\n+junk\r\n")
    except ProtocolError as problem:
        shown += f"{problem!r} {problem} {problem.__cause__!r}"
    if SECRET.encode() in answer and not resp3:
        return  # AUTH is no unknown command anywhere, and no server answers it so
    assert SECRET not in shown


# -- subscribing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resp3", [True, False])
def test_an_ack_that_a_later_command_undoes_is_not_reported(resp3: bool) -> None:
    """SUBSCRIBE, UNSUBSCRIBE, SUBSCRIBE: only the last acknowledgement promises anything."""
    wire = ready(resp3=resp3)
    wire.subscribe([b"a", b"b"])
    wire.unsubscribe([b"a"])
    wire.subscribe([b"a"])
    assert commands(wire.data_to_send()) == [[b"SUBSCRIBE", b"a", b"b"], [b"UNSUBSCRIBE", b"a"], [b"SUBSCRIBE", b"a"]]
    assert wire.receive(acks(b"subscribe", [b"a", b"b"], resp3=resp3)) == ([], [Acked([b"b"])])
    assert wire.receive(acks(b"unsubscribe", [b"a"], resp3=resp3)) == ([], [])
    assert wire.receive(acks(b"subscribe", [b"a"], resp3=resp3)) == ([], [Acked([b"a"])])


def test_a_thousand_channels_a_command() -> None:
    wire = ready()
    names = [b"%d" % n for n in range(2500)]
    wire.subscribe(iter(names))
    sent = commands(wire.data_to_send())
    assert [len(words) - 1 for words in sent] == [1000, 1000, 500]
    assert [name for words in sent for name in words[1:]] == names
    assert wire.receive(acks(b"subscribe", names)) == ([], [Acked(names)]), "one event for one read"


def test_the_window_of_channels_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The acknowledgements of a million channels must not fill the server's buffer for us."""
    wire = ready()
    names = [b"%d" % n for n in range(40_000)]
    wire.subscribe(names)
    seen: list[bytes] = []
    largest = 0
    while sent := commands(wire.data_to_send()):
        seen += (batch := [name for words in sent for name in words[1:]])
        largest = max(largest, wire._in_flight)
        assert wire.receive(acks(b"subscribe", batch)) == ([], [Acked(batch)])
    assert seen == names
    assert largest == _wire.CHANNELS_IN_FLIGHT


def test_a_refused_command() -> None:
    """The whole command is answered by one error; commands around it are not touched, and the window is freed."""
    wire = ready()
    wire.subscribe([b"x", b"y"])
    wire.subscribe([b"z"])
    wire.unsubscribe([b"y"])
    wire.data_to_send()
    reason = "NOPERM this user has no permissions to access one of the channels used as arguments"
    said = error(reason) + acks(b"subscribe", [b"z"]) + acks(b"unsubscribe", [b"y"])
    assert wire.receive(said) == ([], [Refused([b"x"], reason), Acked([b"z"])]), "y was given up meanwhile"
    assert wire._in_flight == 0


def test_a_refused_unsubscribe_is_nobody_s_trouble() -> None:
    wire = ready()
    wire.unsubscribe([b"x"])
    wire.data_to_send()
    assert wire.receive(error("NOPERM no")) == ([], [])


def test_the_order_of_messages_and_acknowledgements() -> None:
    wire = ready()
    wire.subscribe([b"a"])
    wire.ping()
    assert commands(wire.data_to_send()) == [[b"PING"], [b"SUBSCRIBE", b"a"]], "as the queue of answers has them"
    said = b"+PONG\r\n" + acks(b"subscribe", [b"a"]) + array(True, b"message", b"a", b"1")
    assert wire.receive(said) == ([b"a", b"1"], [Pong(), Acked([b"a"])])


# -- shard channels ---------------------------------------------------------------------------------------------------


def test_shard_channels_go_out_by_slot() -> None:
    wire = ready(sharded=True)
    wire.subscribe([b"{x}1", b"{y}1", b"{x}2"])
    sent = commands(wire.data_to_send())
    assert sent == [[b"SSUBSCRIBE", b"{x}1", b"{x}2"], [b"SSUBSCRIBE", b"{y}1"]]
    names = [name for words in sent for name in words[1:]]
    assert wire.receive(acks(b"ssubscribe", names)) == ([], [Acked(names)])
    assert wire.receive(array(True, b"smessage", b"{x}1", b"v")) == ([b"{x}1", b"v"], [])


def test_a_slot_that_moves_away() -> None:
    """The server ends subscriptions unasked: told, while commands of our own are answered in their order."""
    wire = ready(sharded=True)
    assert wire.receive(acks(b"sunsubscribe", [b"moved"])) == ([], [Dropped([b"moved"])])
    wire.unsubscribe([b"mine"])
    wire.subscribe([b"other"])
    wire.data_to_send()
    said = acks(b"sunsubscribe", [b"moved", b"mine"]) + acks(b"ssubscribe", [b"other"])
    assert wire.receive(said) == ([], [Dropped([b"moved"]), Acked([b"other"])])


def test_slots() -> None:
    """From the cluster specification: the CRC of "123456789" is 0x31c3; only the first non-empty hash tag counts."""
    assert slot_of(b"123456789") == 0x31C3
    assert slot_of(b"{user1000}.following") == slot_of(b"user1000") == slot_of(b"foo{user1000}{zap}")
    assert slot_of(b"foo{}{bar}") == 8363  # of the whole key
    assert slot_of(b"foo{{bar}}zap") == slot_of(b"{bar")


# -- garbage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x16\x03\x01\x00\xee",
        b"+unasked\r\n",
        error("ERR max number of clients reached"),
        b"*-5\r\n",
        b"$-7\r\n",
        b"*3\r\n*0\r\n:1\r\n:2\r\n",
        b">3\r\n$9\r\nsubscribe\r\n*0\r\n:1\r\n",
        b"%1\r\n*0\r\n:1\r\n",
        b"*1\r\n" * 20 + b":1\r\n",
        array(True, b"subscribe", b"never asked for", 1),
    ],
)
def test_what_no_server_says(said: bytes) -> None:
    with pytest.raises(ProtocolError):
        ready().receive(said)


def test_an_answer_of_the_wrong_kind() -> None:
    wire = ready()
    wire.subscribe([b"a"])
    wire.data_to_send()
    with pytest.raises(ProtocolError, match="does not match"):
        wire.receive(b"+OK\r\n")


WORDS = st.lists(
    st.sampled_from(
        [b"*3\r\n", b">3\r\n", b"%1\r\n", b"~2\r\n", b"*0\r\n", b"$-1\r\n", b"_\r\n", b"#t\r\n", b",nan\r\n"]
    )
    | st.sampled_from([b"$7\r\nmessage\r\n", b"$9\r\nsubscribe\r\n", b"$11\r\nunsubscribe\r\n", b"$1\r\na\r\n"])
    | st.sampled_from([b"+OK\r\n", b"-ERR no\r\n", b"-NOPERM\r\n", b"(1\r\n", b"|1\r\n", b":1\r\n", b"\xff", b"\r\n"])
    | st.binary(max_size=8)
)


@settings(deadline=None)
@given(words=WORDS, resp3=st.booleans(), sharded=st.booleans(), begun=st.booleans())
def test_garbage_is_a_protocol_error_or_nothing(words: list[bytes], resp3: bool, sharded: bool, begun: bool) -> None:
    wire = ready(resp3=resp3, sharded=sharded) if begun else Wire(resp3=resp3, sharded=sharded)
    if not begun:
        wire.start()
    wire.subscribe([b"a", b"b"])
    wire.ping()
    wire.data_to_send()
    try:
        wire.receive(b"".join(words))
        wire.data_to_send()
    except ProtocolError:
        pass
