"""The core rows on several Pythons: ``python -m benchmarks.pythons [3.12 3.13 …] [--repeat N]``.

asyncresult on each version of Python that is found (on PATH, or of pyenv; a free-threaded build is ``3.13t``), in a
virtual environment of its own that is made at the first use, in turns around one private server. Printed are medians,
and medians of the ratios to the first of them. The versions need no Redis, and none of the test requirements.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.matrix.__main__ import find_python
from tests.tools.servers import RedisServer

from .contenders import ROOT, Contender
from .lab import Failed, Lab
from .scenarios import SCENARIOS, Scenario

VERSIONS = ("3.11", "3.12", "3.13", "3.13t", "3.14", "3.14t")
CORE = ("single", "join-10000", "gather-10000", "fetch-10000", "join-stored-10000", "store-1000", "updates-many")
#: What is compared where a scenario has it: the machine's noise is smaller in it than in its own metric.
CPU = "cpu_each_us"


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
    parser.add_argument("--repeat", type=int, default=5, metavar="N")
    arguments = parser.parse_args()
    contenders = list(filter(None, map(on_python, arguments.versions)))
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in CORE]
    print(f"| | {' | '.join(contender.name for contender in contenders)} |\n| --- |{' --- |' * len(contenders)}")
    with RedisServer() as server:
        lab = Lab(server)
        for scenario in scenarios:
            print(row(lab, scenario, contenders, arguments.repeat), flush=True)


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


def row(lab: Lab, scenario: Scenario, contenders: list[OnPython], repeat: int) -> str:
    """The medians of one scenario, and what they are of the first contender's."""
    metric = ""
    samples: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for repetition in range(repeat):
        for contender in contenders[:: -1 if repetition % 2 else 1]:
            try:
                numbers = scenario.measure(lab, contender)
            except Failed as error:
                print(f"{scenario.name}, {contender.name}: {error}", file=sys.stderr, flush=True)
                continue
            metric = CPU if CPU in numbers else scenario.metric
            samples[contender.name].append(numbers[metric])
    first = samples[contenders[0].name]
    cells = [cell(own, first) for own in samples.values()]
    return f"| {scenario.name}, {metric} | {' | '.join(cells)} |"


def cell(own: list[float], first: list[float]) -> str:
    if not own or not first:
        return ""
    ratio = statistics.median(a / b for a, b in zip(own, first, strict=False))
    return f"{statistics.median(own):.3g} ({ratio:.2f})"


if __name__ == "__main__":
    main()
