"""Values as the type that a caller expects."""

from __future__ import annotations

import asyncio
import sys
import uuid
from dataclasses import dataclass, make_dataclass
from datetime import UTC, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, NamedTuple, TypedDict

import msgspec
import pytest

from asyncresult.codec import (
    codec,
    convert,
    pieces,
)
from asyncresult.codec import (
    json as kombu_json,
)
from asyncresult.errors import (
    ResultEncodeError,
    ResultTypeError,
)
from asyncresult.meta import TaskMeta
from tests.codec.records import (
    CAPTURED,
    ID,
    PLAIN,
    VECTORS,
    Word,
    outcome,
    raw,
)


@dataclass
class Row:
    id: int
    when: datetime | None = None


class Options(TypedDict):
    size: int


class Shape(msgspec.Struct):
    name: str
    points: list[tuple[int, int]]


NOW = datetime(2024, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "type_", "converted"),
    [
        ({"a": 1}, Any, {"a": 1}),
        (5, None, 5),
        (5, int, 5),
        (5, float, 5.0),
        (None, int | None, None),
        ([1, 2], tuple[int, int], (1, 2)),
        ({"1": 2}, dict[int, int], {1: 2}),
        ([{"id": 1, "when": NOW}], list[Row], [Row(1, NOW)]),
        ([{"id": 1, "when": NOW.isoformat()}], list[Row], [Row(1, NOW)]),
        ({"size": 1}, Options, {"size": 1}),
        ({"name": "n", "points": [[1, 2]]}, Shape, Shape("n", [(1, 2)])),
        (NOW, datetime, NOW),
        (Decimal("1.5"), Decimal, Decimal("1.5")),
        (uuid.UUID(int=5), uuid.UUID, uuid.UUID(int=5)),
        (str(uuid.UUID(int=5)), uuid.UUID, uuid.UUID(int=5)),
        (b"x", bytes, b"x"),
        (time(3), time, time(3)),
        ("a", Word, Word.A),
        ([1], set[int], {1}),
        (NOW, str | datetime, NOW),
        (None, Row | Shape | None, None),
        ({"name": "n", "points": []}, Row | Shape, Shape("n", [])),
    ],
)
def test_convert(value: Any, type_: Any, converted: Any) -> None:
    result = convert(value, type_, task_id=ID)
    assert result == converted
    assert type(result) is type(converted)


@pytest.mark.parametrize(
    ("value", "type_", "words"),
    [
        ("1", int, "not of the type int: Expected `int`, got `str`"),
        ([{"id": 1}, {"id": "x"}], list[Row], r"list\[.*Row\]: Expected `int`, got `str` - at `result\[1\]\.id`"),
        ("aGVsbG8=", bytes, "not of the type bytes"),
        ({}, Row, "not of the type Row: Object missing required field `id`"),
        (None, int, "got `null`"),
        (1, "int", "'int'"),
        (1, 3, "not of the type 3"),
        (5, str | datetime, "may not contain more than one str-like type"),
    ],
)
def test_convert_refuses(value: Any, type_: Any, words: str) -> None:
    with pytest.raises(ResultTypeError, match=words) as caught:
        convert(value, type_, task_id=ID)
    assert caught.value.task_id == ID
    assert ID in str(caught.value)


def test_convert_with_pydantic() -> None:
    pydantic = pytest.importorskip("pydantic")
    item: Any = pydantic.create_model("Item", id=(int, ...), when=(datetime | None, None))
    parsed = convert([{"id": 1, "when": NOW}], list.__class_getitem__(item), task_id=ID)
    assert parsed == [item(id=1, when=NOW)]
    assert convert({"id": 1}, item, task_id=ID) == item(id=1)
    assert convert(["1"], pydantic.TypeAdapter(list[int]), task_id=ID) == [1]
    assert convert(5, Annotated[int, pydantic.Field(gt=1)], task_id=ID) == 5
    assert convert(5, Annotated[int, pydantic.Field(json_schema_extra={"x": 1}), {}], task_id=ID) == 5
    with pytest.raises(ResultTypeError, match=r"Item.*valid integer.* - at `result\[1\]\['id'\]`"):
        convert([{"id": 1}, {"id": "x"}], list.__class_getitem__(item), task_id=ID)
    with pytest.raises(ResultTypeError, match="greater than 1"):
        convert(0, Annotated[int, pydantic.Field(gt=1)], task_id=ID)


class Panic(BaseException):
    """As pydantic's, which is no Exception either."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise Panic


class Empty(Exception):
    def errors(self) -> list[Any]:
        """Pydantic's errors have such a method, too."""
        return []


@dataclass(frozen=True)
class Frozen(Exception):
    """Takes no attribute, so no traceback either."""

    why: str


@pytest.mark.parametrize(
    "raised",
    [
        Frozen("no"),
        ValueError("a\x1b[31m" * 1000),
        Unspeakable(),
        Empty(),
        Panic(),
        asyncio.CancelledError(),
        GeneratorExit(),
        StopIteration(),
    ],
    ids=lambda raised: type(raised).__name__,
)
def test_a_validator_may_raise_anything(raised: BaseException) -> None:
    def check(_: object) -> None:
        raise raised

    strict: Any = make_dataclass("Strict", [("id", int)], namespace={"__post_init__": check})
    with pytest.raises(ResultTypeError, match="not of the type Strict: ") as caught:
        convert({"id": 1}, strict, task_id=ID)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize("stops", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_ends_it(stops: type[BaseException]) -> None:
    def stop(_: object) -> None:
        raise stops

    with pytest.raises(stops):
        convert({}, make_dataclass("Stop", [], namespace={"__post_init__": stop}), task_id=ID)


def test_names_of_fields_are_shown_without_control_characters_and_cut() -> None:
    strict = msgspec.defstruct("Strict", [], forbid_unknown_fields=True)
    for name in ("\x1b[31m\u202e", "x" * 1_000_000):
        with pytest.raises(ResultTypeError, match="unknown field") as caught:
            convert({name: 1}, strict, task_id=ID)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 1200


@pytest.mark.parametrize("number", ["1e999999999", "-1e999999999", "1e-999999999"])
def test_no_whole_number_is_made_of_a_decimal_with_millions_of_digits(number: str) -> None:
    """It would take hours, and all memory."""
    pydantic = pytest.importorskip("pydantic")
    item: Any = pydantic.create_model("Item", size=(int, ...))
    holder: Any = make_dataclass("Holder", [("item", item)])
    assert convert({"size": Decimal("1e10")}, item, task_id=ID).size == 10**10
    for value, type_ in (({"size": Decimal(number)}, item), ({"item": {"size": Decimal(number)}}, holder)):
        with pytest.raises(ResultTypeError, match="a decimal number has more than 4300 digits"):
            convert(value, type_, task_id=ID)
    assert convert(Decimal(number), Decimal, task_id=ID) == Decimal(number)


@dataclass
class Sets:
    numbers: set[int]
    rows: list[Row]


@pytest.mark.parametrize("many", [3, 5000])
def test_numbers_of_one_hash_are_no_keys_and_no_members_where_they_are_many(many: int) -> None:
    pydantic = pytest.importorskip("pydantic")
    model: Any = pydantic.create_model("Model", numbers=(set[int], ...))
    numbers = [(2**61 - 1) * 2**4 * (n + 1) for n in range(many)]
    keys = {f"{number}": 1 for number in numbers}
    for value, type_ in (
        (keys, dict[int, int]),
        ([keys], list[dict[int, int] | None]),
        (keys, Annotated[dict[int, int], {}]),
        (numbers, set[int]),
        (numbers, frozenset[int | str]),
        ({"numbers": numbers, "rows": []}, Sets),
        ([{"numbers": numbers, "rows": []}], list[Sets]),
        ({"numbers": numbers}, model),
    ):
        if many > 1000:
            with pytest.raises(ResultTypeError, match="too many whole numbers of one hash"):
                convert(value, type_, task_id=ID)
        else:
            assert convert(value, type_, task_id=ID)
    # Where none is a key or a member, and where each has a hash of its own.
    assert convert(numbers, list[int], task_id=ID) == numbers
    assert convert(keys, dict[str, int], task_id=ID) == keys
    others = {f"{2**64 + n}": n for n in range(many)}
    assert len(convert(others, dict[int, int], task_id=ID)) == many


def test_nothing_is_imported() -> None:
    """Reading imports nothing, whatever the bytes are; pydantic is there only if the application has it."""
    before = set(sys.modules)
    for name in CAPTURED:
        outcome(PLAIN.decode, VECTORS[name].get("task_id", ID), raw(VECTORS[name]))
    convert({"id": 1}, Row, task_id=ID)
    assert set(sys.modules) == before
    for module in (codec, kombu_json, pieces):
        assert "pickle" not in vars(module)


class Color(Enum):
    RED = "red"


class Pair(NamedTuple):
    a: int
    b: str


class Renamed(msgspec.Struct, rename="camel", tag=True):
    first_name: str
    rows: list[Row]


@dataclass
class Rich:
    when: datetime
    sizes: set[int]
    inner: Renamed
    price: Decimal
    raw: bytes


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        (Row(1, NOW), Row),
        (Rich(NOW, {1, 2}, Renamed("n", [Row(1)]), Decimal("1.50"), b"\xff"), Rich),
        (Renamed("n", [Row(1, NOW)]), Renamed),
        ([Row(1), Row(2)], list[Row]),
        ({"a": Row(1)}, dict[str, Row]),
        (Options(size=1), Options),
        (Pair(1, "x"), Pair),
        (Color.RED, Color),
        (Row(1), Row | Shape | None),
        (Shape("n", [(1, 2)]), Row | Shape | None),
    ],
)
def test_models_are_stored_as_json_and_read_back(value: Any, type_: Any) -> None:
    payload = PLAIN.encode(TaskMeta(task_id=ID, status="SUCCESS", result=value))
    back = convert(PLAIN.decode(ID, payload).result, type_, task_id=ID)
    assert back == value
    assert type(back) is type(value)


def test_models_of_attrs_and_pydantic_too() -> None:
    attrs, pydantic = pytest.importorskip("attrs"), pytest.importorskip("pydantic")
    point = attrs.make_class("Point", {"x": attrs.field(type=int), "when": attrs.field(type=datetime)})
    item: Any = pydantic.create_model(
        "Item", id=(int, ...), tags=(set[str], ...), word=(str, pydantic.Field(alias="WORD"))
    )
    holder = make_dataclass("Holder", [("item", item), ("rows", list[Row])])
    an_item = item(id=1, tags={"a"}, WORD="w")
    for value in (point(1, NOW), an_item, holder(an_item, [Row(1)])):
        payload = PLAIN.encode(TaskMeta(task_id=ID, status="SUCCESS", result=[value]))
        assert convert(PLAIN.decode(ID, payload).result, list[type(value)], task_id=ID) == [value]  # type: ignore[misc]
    with pytest.raises(ResultTypeError, match="result"):
        convert({"item": {"id": "x"}, "rows": []}, holder, task_id=ID)


def test_what_a_model_holds_must_be_storable() -> None:
    with pytest.raises(ResultEncodeError, match="object"):
        PLAIN.encode(TaskMeta(task_id=ID, status="SUCCESS", result=make_dataclass("Odd", ["x"])(object())))
