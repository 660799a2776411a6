"""Celery's canvases, with types: ``from asyncresult.integrations.celery import chain, chord, group``.

They are Celery's own. For type checkers a signature knows what its task returns, so that a chain gives what its last
task returns, a group a list, and a chord what its body returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...result import AsyncResult, GroupResult
    from .awaitable import AwaitableResult

__all__ = ["GroupSignature", "TypedSignature", "chain", "chord", "group"]

R_co = TypeVar("R_co", covariant=True)

if TYPE_CHECKING:
    R = TypeVar("R")
    S = TypeVar("S")

    class TypedSignature(Generic[R_co]):
        """A signature, chain or chord whose task returns an ``R``."""

        def delay(self, *args: Any, **kwargs: Any) -> AwaitableResult[R_co]:
            """Send it. Blocks. Returns Celery's own result, which can be awaited."""
            ...

        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> AwaitableResult[R_co]:
            """:meth:`delay` with Celery's options for sending."""
            ...

        async def adelay(self, *args: Any, **kwargs: Any) -> AsyncResult[R_co]:
            """Send it without blocking the event loop. Returns the handle, with its parents."""
            ...

        async def aapply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult[R_co]:
            """:meth:`adelay` with Celery's options for sending."""
            ...

        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
        def __getitem__(self, name: str) -> Any: ...
        def __getattr__(self, name: str) -> Any: ...  # what else Celery's has

        @overload
        def __or__(self, other: GroupSignature[S]) -> GroupSignature[S]: ...
        @overload
        def __or__(self, other: TypedSignature[S]) -> TypedSignature[S]: ...
        def __or__(self, other: Any) -> Any: ...

    class GroupSignature(Generic[R_co]):
        """A group, or chain that ends in one, whose tasks return an ``R`` each."""

        def delay(self, *args: Any, **kwargs: Any) -> Any:
            """Send it. Blocks. Returns Celery's own result, which can be awaited."""
            ...

        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            """:meth:`delay` with Celery's options for sending."""
            ...

        async def adelay(self, *args: Any, **kwargs: Any) -> GroupResult[R_co]:
            """Send it without blocking the event loop. Returns the handle of the group, which has its members."""
            ...

        async def aapply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> GroupResult[R_co]:
            """:meth:`adelay` with Celery's options for sending."""
            ...

        def __getitem__(self, name: str) -> Any: ...
        def __getattr__(self, name: str) -> Any: ...
        def __or__(self, other: TypedSignature[S]) -> TypedSignature[S]: ...

    @overload
    def group(tasks: Iterable[TypedSignature[R]], /, **options: Any) -> GroupSignature[R]: ...
    @overload
    def group(*tasks: TypedSignature[R], **options: Any) -> GroupSignature[R]: ...
    @overload
    def group(*tasks: Any, **options: Any) -> GroupSignature[Any]: ...  # pyright: ignore[reportOverlappingOverload]
    def group(*tasks: Any, **options: Any) -> Any:
        """Celery's: tasks that run beside each other."""

    @overload
    def chain(first: TypedSignature[R], /, **options: Any) -> TypedSignature[R]: ...
    @overload
    def chain(first: Any, last: GroupSignature[R], /, **options: Any) -> GroupSignature[R]: ...
    @overload
    def chain(first: Any, last: TypedSignature[R], /, **options: Any) -> TypedSignature[R]: ...
    @overload
    def chain(a: Any, b: Any, last: GroupSignature[R], /, **options: Any) -> GroupSignature[R]: ...
    @overload
    def chain(a: Any, b: Any, last: TypedSignature[R], /, **options: Any) -> TypedSignature[R]: ...
    @overload
    def chain(a: Any, b: Any, c: Any, last: TypedSignature[R], /, **options: Any) -> TypedSignature[R]: ...
    @overload
    def chain(a: Any, b: Any, c: Any, d: Any, last: TypedSignature[R], /, **options: Any) -> TypedSignature[R]: ...
    @overload
    def chain(*tasks: Any, **options: Any) -> TypedSignature[Any]: ...  # pyright: ignore[reportOverlappingOverload]
    def chain(*tasks: Any, **options: Any) -> Any:
        """Celery's: tasks that run one after the other, each with what the one before returned."""

    @overload
    def chord(
        header: GroupSignature[Any] | Iterable[Any], body: TypedSignature[R], **options: Any
    ) -> TypedSignature[R]: ...
    @overload
    def chord(header: GroupSignature[Any] | Iterable[Any], body: Any, **options: Any) -> TypedSignature[Any]: ...
    def chord(header: Any, body: Any, **options: Any) -> Any:
        """Celery's: a group, and a task that gets the list of what its tasks returned."""

else:
    from celery.canvas import Signature, chain, chord, group

    TypedSignature = GroupSignature = Signature
