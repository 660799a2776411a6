"""What one result, a set and a group of results have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Coroutine, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from typing import TypeVar as typing_TypeVar
from uuid import UUID

from ..promise import Thenable

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # with a default (PEP 696); type checkers bring it along

    from ..control import Reply

    # A handle whose type nobody states, AsyncResult(id), is an AsyncResult[Any].
    T = TypeVar("T", default=Any)
    T_co = TypeVar("T_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")
    T_co = TypeVar("T_co", covariant=True)

__all__ = [
    "HasHandle",
    "N",
    "Node",
    "ResultBase",
    "SupportsAsyncResult",
    "T",
    "T_co",
    "as_result",
    "handles_in",
    "members_in",
    "not_a_result",
]


class ResultBase(Thenable[T_co]):
    """Something that can be waited for: one result, or several.

    Attributes:
        parent: What must succeed before, in a chain.
    """

    __slots__ = ()

    parent: Node[Any] | None

    @abstractmethod
    def __await__(self) -> Generator[Any, None, T_co]: ...

    @abstractmethod
    def get(self, timeout: float | None = None) -> Coroutine[Any, Any, T_co]:
        """Wait for the outcome."""

    @abstractmethod
    def ready(self) -> Coroutine[Any, Any, bool]:
        """Whether everything is over."""

    @abstractmethod
    def successful(self) -> Coroutine[Any, Any, bool]:
        """Whether everything returned."""

    @abstractmethod
    def failed(self) -> Coroutine[Any, Any, bool]:
        """Whether anything raised."""

    @abstractmethod
    def forget(self) -> Coroutine[Any, Any, None]:
        """Delete what is stored."""

    @abstractmethod
    def revoke(
        self, *, terminate: bool = False, signal: str | None = None, wait: bool = False, timeout: float | None = None
    ) -> Coroutine[Any, Any, list[Reply]]:
        """Request that the tasks are not run."""

    @abstractmethod
    def to_celery(self, app: Any) -> Any:
        """Celery's own result for this."""

    def _members(self) -> Sequence[ResultBase[Any]]:
        """Those of a set or group."""
        return ()

    def _repr_html_(self) -> str:
        """For notebooks: what is known already, without touching the network."""
        from .html import html_of  # most programs are none

        handles = list(self._leaves())
        alone = len(handles) == 1 and handles[0] is self
        return html_of(handles, title="" if alone else type(self).__name__)

    @abstractmethod
    def _leaves(self) -> Iterator[Any]:
        """The handles of single tasks, from left to right."""

    @abstractmethod
    def _values(self, propagate: bool) -> Any:
        """The outcome, once everything is over."""


# What the rest of the package wants of these. Not public methods: all that is public on a handle is the users'.


def handles_in(node: ResultBase[Any]) -> Iterator[Any]:
    """The handles of single tasks, from left to right."""
    return node._leaves()


def members_in(node: ResultBase[Any]) -> Sequence[ResultBase[Any]]:
    """Those of a set or group."""
    return node._members()


class Node(ResultBase[T_co]):
    """A member of a tree of tasks: a result, or a group.

    Attributes:
        id: The id of the task, or of the group.
    """

    __slots__ = ()

    id: str

    def as_tuple(self) -> tuple[tuple[str, Any], Any]:
        """Celery's portable form: ``((id, parent's form or None), members' forms or None)``."""
        if self.parent is None:  # as most of a group's many members
            return (self.id, None), self._member_forms()
        form: Any = None
        for node in reversed(self._chain()):  # without recursion: a chain may be long
            form = (node.id, form), node._member_forms()
        return form  # type: ignore[no-any-return]

    def as_list(self) -> list[str]:
        """The ids of this and its parents, nearest first; a group's id comes before its members'."""
        return [id for node in self._chain() for id in (node.id, *node._member_ids())]

    def _chain(self) -> list[Node[Any]]:
        """This and its parents, nearest first."""
        chain: list[Node[Any]] = [self]
        while (parent := chain[-1].parent) is not None:
            chain.append(parent)
        return chain

    def _member_forms(self) -> list[Any] | None:
        """The members of a group in their form."""
        return None

    def _member_ids(self) -> list[str]:
        return []

    @abstractmethod
    async def _below(self) -> Sequence[Node[Any]]:
        """The nodes below this one, as far as they are known now."""


N = typing_TypeVar("N", bound=Node[Any])
N_co = typing_TypeVar("N_co", covariant=True)


class SupportsAsyncResult(Protocol[T_co]):
    """A result object of another library that has a handle of ours, as Celery's results do in a connected app.

    Sets, ``gather()`` and its like, ``scope().adopt`` and promises take such an object for its handle.
    """

    def __asyncresult__(self) -> ResultBase[T_co]:
        """The handle."""
        ...


class HasHandle(Protocol[N_co]):
    """A result object of another library whose type says which handle it has."""

    @property
    def handle(self) -> N_co: ...


def not_a_result(thing: object) -> TypeError:
    """The error for what is given in place of a handle or a set of them."""
    hint = ""
    if isinstance(thing, str | UUID):
        hint = "; AsyncResult(id) makes one"
    elif isinstance(thing, Iterable):
        hint = "; several are given one by one: gather(*results)"
    elif type(thing).__module__.startswith("celery."):
        hint = "; AsyncResult.from_celery(result) makes one"
    return TypeError(f"expected a result, not {type(thing).__name__}: {thing!r:.60}{hint}")


def as_result(thing: Any) -> ResultBase[Any]:
    """A handle, or set of handles, as it is; for what has one (:class:`SupportsAsyncResult`) that one.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(thing, ResultBase):
        return thing
    convert: Any = getattr(type(thing), "__asyncresult__", None)
    if convert is None:
        raise not_a_result(thing)
    handle: ResultBase[Any] = convert(thing)
    return handle
