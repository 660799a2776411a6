"""Signed tokens in the place of task ids, so that an id alone opens nothing."""

from __future__ import annotations

from collections.abc import Callable

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.requests import HTTPConnection

from .._checks import check_seconds

__all__ = ["Tokens"]


class Tokens:
    """Makes and reads tokens that carry a task's id, whom they are for, and when they expire.

    Args:
        secret: The key of the signatures. A list of them is for changing keys: the last signs, all are accepted.
        max_age: Seconds that a token is valid.
        subject: Whom a request belongs to, e.g. ``lambda request: request.user.username``. A token works only for
            the subject that it was made for. Without it a token works for whoever has it.
    """

    def __init__(
        self,
        secret: str | bytes | list[str] | list[bytes],
        *,
        max_age: int = 86400,
        subject: Callable[[HTTPConnection], str | None] | None = None,
    ) -> None:
        if not secret:
            raise ValueError("the secret of the tokens must not be empty")
        check_seconds("max_age", max_age)  # no token is older than NaN
        self._serializer = URLSafeTimedSerializer(secret, salt="asyncresult.web.task")
        self._max_age = max_age
        self._subject = subject

    def make(self, task_id: str, request: HTTPConnection) -> str:
        """A token for a task, for whoever sends this request."""
        return str(self._serializer.dumps([task_id, self._subject_of(request)]))

    def read(self, token: str, request: HTTPConnection) -> str:
        """The id in a token.

        Raises:
            ValueError: It is forged, expired, or somebody else's.
        """
        try:
            task_id, subject = self._serializer.loads(token, max_age=self._max_age)
        except (BadData, ValueError, TypeError):
            raise ValueError("not a valid token") from None
        if subject != self._subject_of(request) or not isinstance(task_id, str):
            raise ValueError("not a valid token")
        return task_id

    def _subject_of(self, request: HTTPConnection) -> str | None:
        return self._subject(request) if self._subject is not None else None
