"""The core rows on several Pythons: ``python -m benchmarks.pythons [3.12 3.13 …] [--minutes N]``.

asyncresult on each version of Python that is found (on PATH, or of pyenv; a free-threaded build is ``3.13t``), in a
virtual environment of its own that is made at the first use, in turns around one private server. Printed are medians
of the client's CPU time, which other work on the machine changes least, and medians of the ratios to the first of
them within each turn. There are as many turns as the time allows, each of them with all rows, so that a busy minute
does not fall on one row. The versions need no Redis, and none of the test requirements.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.matrix.__main__ import find_python
from tests.tools.servers import RedisServer

from .contenders import ROOT, Contender
from .lab import Failed, Lab
from .scenarios import SCENARIOS, Scenario

VERSIONS = ("3.11", "3.12", "3.13", "3.13t", "3.14", "3.14t")
CORE = ("single", "join-10000", "gather-10000", "fetch-10000", "join-stored-10000", "store-1000", "updates-many")
CPU = "cpu_each_us"

Samples = dict[tuple[str, str], list[float]]
"""By scenario and Python."""


@dataclass(frozen=True)
class OnPython(Contender):
    """asyncresult on another interpreter than the runner's.

    Attributes:
        interpreter: The Python that its environment is made with.
    """

    interpreter: str = ""

    @property
    def environment(self) -> Path:
        return ROOT / ".venvs" / f"bench-python-{self.name}"

    @property
    def python(self) -> str:
        return str(self.environment / "bin" / "python")

    def prepare(self) -> None:
        """Make the environment, unless it is there.

        Raises:
            subprocess.CalledProcessError: Something cannot be installed.
        """
        if (self.environment / "ready").exists():
            return
        shutil.rmtree(self.environment, ignore_errors=True)
        pip = [self.python, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        for command in ([self.interpreter, "-m", "venv", str(self.environment)], [*pip, "--editable", str(ROOT)]):
            subprocess.run(command, check=True, capture_output=True, text=True)
        (self.environment / "ready").touch()


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.pythons", description=__doc__)
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    parser.add_argument("--minutes", type=float, default=5, metavar="N", help="begin no turn after so many (5)")
    arguments = parser.parse_args()
    contenders = list(filter(None, map(on_python, arguments.versions)))
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in CORE]
    samples: Samples = {(scenario.name, own.name): [] for scenario in scenarios for own in contenders}
    until = time.monotonic() + arguments.minutes * 60
    turns = 0
    with RedisServer() as server:
        lab = Lab(server)
        while not turns or time.monotonic() < until:
            for scenario in scenarios:
                measure(lab, scenario, contenders[:: -1 if turns % 2 else 1], samples)
            turns += 1
    print(f"Client's CPU, us for each result, and of {contenders[0].label}'s: medians of {turns} turns.\n")
    print(f"| | {' | '.join(contender.name for contender in contenders)} |\n| --- |{' --- |' * len(contenders)}")
    for scenario in scenarios:
        own = [samples[scenario.name, contender.name] for contender in contenders]
        print(f"| {scenario.name} | {' | '.join(cell(numbers, own[0]) for numbers in own)} |")


def on_python(version: str) -> OnPython | None:
    interpreter = find_python(version)
    trouble = "no such Python"
    if interpreter is not None:
        contender = OnPython(version, f"Python {version}", "ours", variant="asyncio", interpreter=interpreter)
        try:
            contender.prepare()
            return contender
        except subprocess.CalledProcessError as error:
            trouble = str(error.stderr).strip().splitlines()[-1]
    print(f"{version}: left out: {trouble}", file=sys.stderr, flush=True)
    return None


def measure(lab: Lab, scenario: Scenario, contenders: list[OnPython], samples: Samples) -> None:
    """One scenario on each Python, side by side; all or none of them, so that what is compared belongs together."""
    numbers: dict[str, float] = {}
    for contender in contenders:
        try:
            numbers[contender.name] = scenario.measure(lab, contender)[CPU]
        except Failed as error:
            print(f"{scenario.name}, {contender.name}: {error}", file=sys.stderr, flush=True)
            return
    for name, number in numbers.items():
        samples[scenario.name, name].append(number)


def cell(own: list[float], first: list[float]) -> str:
    if not own or not first:
        return ""
    ratio = statistics.median(a / b for a, b in zip(own, first, strict=True))
    return f"{statistics.median(own):.3g} ({ratio:.2f})"


if __name__ == "__main__":
    main()
