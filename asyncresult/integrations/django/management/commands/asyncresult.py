"""``manage.py asyncresult get ID``: the command line of asyncresult, with the backend of the settings."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured

from .....backend import Backend
from .....cli.main import Defaults, main
from ...settings import get_backend, is_url, place_of_results

if TYPE_CHECKING:
    from ...._untyped import Untyped as BaseCommand
else:
    from django.core.management.base import BaseCommand

__all__ = ["Command"]


class Command(BaseCommand):
    """Everything behind the command's name is for asyncresult; options of Django's come in front of it."""

    help = "Look at, wait for and manage the results of background tasks: manage.py asyncresult -h"
    requires_system_checks: tuple[str, ...] = ()  # it is for finding out what is wrong

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("arguments", nargs=argparse.REMAINDER, help="as for the command asyncresult")

    def run_from_argv(self, argv: list[str]) -> None:
        """Have ``-h`` show the help of asyncresult, which takes all arguments but those that name the settings."""
        if argv[2:3] in ([], ["-h"], ["--help"]):
            self._run(["--help"])
        super().run_from_argv(argv)  # type: ignore[misc]

    def handle(self, *args: Any, **options: Any) -> None:
        self._run(options["arguments"])

    def _run(self, arguments: list[str]) -> None:
        place = place_of_results()
        defaults = None
        if place is not None:
            defaults = Defaults(_backend, None if is_url(place) else place)
        status = main(arguments, prog="manage.py asyncresult", defaults=defaults)
        if status:
            raise SystemExit(status)


def _backend() -> Backend:
    try:
        return get_backend()
    except ImproperlyConfigured as error:
        raise ValueError(str(error)) from error
