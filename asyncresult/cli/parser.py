"""The command line as argparse knows it. docs/reference/cli.md is generated from here.

A command is a function ``run(arguments) -> int`` in a module that is imported when the command is chosen.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

from ..version import __version__

__all__ = ["build_parser", "commands_of", "run_of"]

N = TypeVar("N", int, float)

_EPILOG = """\
exit status:
  0 success   1 a task failed   2 usage   3 revoked   4 unknown id   5 server unreachable
  6 unreadable record   124 timeout   130 Ctrl-C.   Of several results the largest counts.

The results are found by --url, else by the settings of the Celery app given with -A, else by $ASYNCRESULT_URL,
else by $CELERY_RESULT_BACKEND.
"""


def _seconds(text: str) -> float:
    value = _number(text, float)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def _count(text: str) -> int:
    value = _number(text, int)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return value


def _port(text: str) -> int:
    value = _number(text, int)
    if not 0 <= value < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return value


def _number(text: str, kind: type[N]) -> N:
    """The number, or one that nothing here takes: argparse would name the function that failed."""
    try:
        return kind(text)
    except ValueError:
        return kind(-1)


class _Parser(argparse.ArgumentParser):
    """Shows its epilog as it is written, and says how to get help instead of printing the whole usage."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _add_connection_options(parser: argparse.ArgumentParser, *, of_command: bool) -> None:
    """Before the command's name and after it: what is given after it counts."""

    def default(value: Any) -> Any:
        return argparse.SUPPRESS if of_command else value

    group = parser.add_argument_group("where the results are")
    group.add_argument(
        "--url", metavar="URL", default=default(None), help="of the server, as for asyncresult.connect()"
    )
    group.add_argument(
        "-A", "--app", metavar="PROJ[:APP]", default=default(None), help="a Celery app: its settings say where"
    )
    group.add_argument(
        "--connect-timeout",
        metavar="SECONDS",
        type=_seconds,
        default=default(5.0),
        help="how long the first contact may take (default: 5); later outages are waited out",
    )


_IDS = {"nargs": "+", "metavar": "ID", "help": "of a task; - reads ids from stdin, one a line"}


def build_parser(prog: str = "asyncresult") -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(
        prog=prog,
        description="Look at, wait for and manage the results of background tasks.",
        epilog=_EPILOG,
    )
    parser.set_defaults(make_backend=None)
    parser.add_argument("--version", action="version", version=f"asyncresult {__version__}")
    _add_connection_options(parser, of_command=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    common = _Parser(add_help=False)
    _add_connection_options(common, of_command=True)

    def add(name: str, run: str, summary: str, *, connects: bool = True, **options: Any) -> argparse.ArgumentParser:
        """A command; ``run`` is ``module:function`` below this package."""
        command = commands.add_parser(
            name, help=summary, description=options.pop("description", summary), parents=[common] if connects else []
        )
        command.set_defaults(run=run)
        return command

    get = add("get", "results:get", "wait for one result and print its value")
    get.add_argument("id", metavar="ID", help="of the task")
    get.add_argument("--timeout", metavar="SECONDS", type=_seconds, help="how long to wait (default: without end)")
    get.add_argument("--no-wait", action="store_true", help="only look: status 4 where nothing is stored yet")
    get.add_argument("--traceback", action="store_true", help="print the worker's traceback of a failure to stderr")
    form = get.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the whole record as JSON")
    form.add_argument("--raw", action="store_true", help="print the stored bytes as they are")
    form.add_argument("--field", metavar="NAME", help="print one field of the record, e.g. worker")

    wait = add("wait", "results:wait", "wait until tasks have ended; prints 'ID STATE' for each")
    wait.add_argument("ids", **cast("dict[str, Any]", _IDS))
    enough = wait.add_mutually_exclusive_group()
    enough.add_argument("--any", action="store_true", help="until one has ended")
    enough.add_argument("--count", metavar="K", type=_count, help="until K have ended")
    wait.add_argument("--for", dest="state", metavar="STATE", help="until a task is in that state, or has ended")
    wait.add_argument("--timeout", metavar="SECONDS", type=_seconds, help="for all together (default: without end)")
    wait.add_argument("-q", "--quiet", action="store_true", help="print nothing")

    watch = add("watch", "watch:watch", "show the states of tasks as they come, with progress bars on a terminal")
    watch.add_argument("ids", **cast("dict[str, Any]", _IDS))
    watch.add_argument("--json", action="store_true", help="one JSON object a line")
    watch.add_argument("--exit-status", action="store_true", help="let the exit status say how the tasks ended")
    watch.add_argument("--since", metavar="STATE_ID", help="go on after that kept state; 0: all that are kept")
    watch.add_argument("--timeout", metavar="SECONDS", type=_seconds, help="for all together (default: without end)")

    info = add("info", "results:info", "print everything that is known about tasks")
    info.add_argument("ids", **cast("dict[str, Any]", _IDS))
    info.add_argument("--json", action="store_true", help="one JSON object a line")

    tree = add("tree", "tree:tree", "print the tree of tasks below one, with their states")
    tree.add_argument("id", metavar="ID", help="of the task, or of a saved group, at the top")
    tree.add_argument("--format", choices=["text", "dot", "mermaid", "json"], default="text", help="default: text")
    tree.add_argument("--depth", metavar="N", type=_count, help="levels to show (default: all)")

    ls = add("ls", "listing:ls", "list ids of what is stored")
    ls.add_argument("--state", metavar="STATE", help="only tasks in that state")
    ls.add_argument("--limit", metavar="N", type=_count, default=100, help="at most so many (default: 100)")
    ls.add_argument("--json", action="store_true", help="one JSON object a line, with id and state")

    forget = add("forget", "results:forget", "delete the records of tasks")
    forget.add_argument("ids", **cast("dict[str, Any]", _IDS))
    forget.add_argument("--yes", action="store_true", help="do not ask for confirmation")

    revoke = add("revoke", "results:revoke", "keep tasks from running")
    revoke.add_argument("ids", **cast("dict[str, Any]", _IDS))
    revoke.add_argument("--terminate", action="store_true", help="also end those that run already")
    revoke.add_argument("--signal", metavar="NAME", help="how, e.g. SIGKILL (Celery's default: SIGTERM)")
    revoke.add_argument("--wait", action="store_true", help="wait for the workers' replies and print them")
    revoke.add_argument("--timeout", metavar="SECONDS", type=_seconds, help="for replies (default: 1)")

    stats = add("stats", "stats:stats", "print what the server and its clients are doing")
    stats.add_argument("--json", action="store_true", help="as one JSON object")

    doctor = add("doctor", "doctor:doctor", "find out why a result does not come")
    doctor.add_argument("id", nargs="?", metavar="ID", help="of a task whose result does not come")
    doctor.add_argument("--json", action="store_true", help="as one JSON object")

    trigger = add("install-trigger", "trigger:install_trigger", "let PostgreSQL announce results (Celery, Django)")
    trigger.add_argument("--sql", action="store_true", help="only print the statements, e.g. for a migration")
    trigger.add_argument("--dsn", help="of a role that owns the table, where the app's own does not")

    serve = add(
        "serve", "serve:serve", "show what is in the store in a browser: a list, a search, a page for each task"
    )
    serve.add_argument("--host", default="127.0.0.1", help="to listen at; other than of this machine: with a token")
    serve.add_argument("--port", type=_port, default=5566, help="default: 5566; 0: a free one")
    serve.add_argument("--allow-revoke", action="store_true", help="show buttons that revoke (Celery's tasks: with -A)")

    demo = add("demo", "demo:demo", "see it work, with a private server and a Celery worker", connects=False)
    demo.add_argument("--memory", action="store_true", help="without a server and without Celery")

    completion = add("completion", "completion:completion", "print a completion script", connects=False)
    completion.add_argument("shell", choices=["bash", "zsh", "fish"], metavar="SHELL", help="bash, zsh or fish")
    return parser


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands of a parser by name."""
    kind = argparse._SubParsersAction  # pyright: ignore[reportPrivateUsage]
    (action,) = [action for action in parser._actions if isinstance(action, kind)]
    return dict(action.choices)


def run_of(arguments: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    """The function of the chosen command; its module is imported here."""
    module, _, name = arguments.run.partition(":")
    function: Callable[[argparse.Namespace], int] = getattr(importlib.import_module(f".{module}", __package__), name)
    return function
