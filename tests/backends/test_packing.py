"""Commands as bytes: however they are packed, a server reads what was meant."""

from __future__ import annotations

from collections.abc import Sequence

import hiredis
import pytest

from asyncresult._redis.packing import MANY, Command, KeysCommand, pack


@pytest.mark.parametrize(
    "keys",
    [
        [b"k"],
        [b"%012d" % number for number in range(2 * MANY)],
        [b"%d" % number for number in range(2 * MANY)],
        [b""] * 2 * MANY,
    ],
    ids=["one", "of one length", "of several lengths", "empty"],
)
def test_keys_are_packed_as_by_hiredis(keys: Sequence[bytes]) -> None:
    command: Command = ("MGET", *keys)
    assert pack(KeysCommand(command)) == pack(command) == hiredis.pack_command(command)
