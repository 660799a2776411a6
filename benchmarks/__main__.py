"""``python3 dev bench [--quick] [--only NAME …] [--repeat N]``: measure all contenders in one run.

NAME is the beginning of a scenario's name, or the name of a contender. ``--redraw`` makes table and charts
anew from the last results.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.tools.servers import RedisServer

from .charts import draw
from .contenders import CONTENDERS, QUICK, ROOT, Contender, prepare
from .lab import Failed, Lab
from .report import headline, markdown, peers, summary
from .scenarios import SCENARIOS, Scenario

RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "explanation" / "performance.md"
FILLED = {PAGE: summary, PAGE.with_name("comparison.md"): peers, ROOT / "README.md": headline}
"""What the newest run writes into pages, between two marks."""
BEGIN, END = "<!-- results: written by the benchmarks -->", "<!-- end of the results -->"


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, no peers, once: under two minutes")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="scenarios and contenders")
    parser.add_argument("--repeat", type=int, metavar="N", help=f"repetitions ({REPETITIONS})")
    parser.add_argument("--redraw", action="store_true", help="table and charts of the latest results, anew")
    arguments = parser.parse_args()
    if arguments.redraw:
        path = max(RESULTS.glob("[0-9]*.json"))
        publish(json.loads(path.read_text(encoding="utf-8")), path)
        return 0
    scenarios, contenders = chosen(arguments.only, quick=arguments.quick)
    contenders = [contender for contender in contenders if is_ready(contender)]
    results = measure(scenarios, contenders, repeat=arguments.repeat or (1 if arguments.quick else REPETITIONS))
    if arguments.quick or arguments.only:
        print(markdown(results))
    else:
        path = RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        publish(results, path)
    return 0


def chosen(only: list[str], *, quick: bool) -> tuple[list[Scenario], list[Contender]]:
    names = {contender.name for contender in CONTENDERS}
    beginnings = tuple(name for name in only if name not in names)
    scenarios = [s for s in SCENARIOS if (s.name.startswith(beginnings) if beginnings else s.quick or not quick)]
    if not scenarios:
        raise SystemExit(f"no such scenario; there are {', '.join(scenario.name for scenario in SCENARIOS)}")
    wanted = names.intersection(only)
    contenders = [c for c in CONTENDERS if (c.name in wanted if wanted else not quick or c.name in QUICK)]
    return scenarios, contenders


#: What a target is a median of.
REPETITIONS = 5


def is_ready(contender: Contender) -> bool:
    trouble = prepare(contender)
    if trouble:
        say(f"{contender.name}: left out, it cannot be installed: {trouble}")
    return trouble is None


def measure(scenarios: list[Scenario], contenders: list[Contender], *, repeat: int) -> dict[str, Any]:
    """Contenders take turns within each scenario, so that a noisy minute hits all of them.

    Every other time in the opposite order: who always came first, or after the same one, would gain or lose by it.
    """
    samples: list[dict[str, Any]] = []
    began = time.monotonic()
    with RedisServer() as server:
        lab = Lab(server)
        machine = describe(server, contenders)
        for repetition in range(repeat):
            for scenario in scenarios:
                if repetition and scenario.once:
                    continue
                for contender in contenders[:: -1 if repetition % 2 else 1]:
                    if contender.name not in scenario.contenders or scenario.n > (contender.most or scenario.n):
                        continue
                    sample: dict[str, Any] = {
                        "scenario": scenario.name,
                        "contender": contender.name,
                        "repetition": repetition,
                    }
                    try:
                        numbers = scenario.measure(lab, contender)
                        sample["numbers"] = {name: float(f"{number:.4g}") for name, number in numbers.items()}
                    except Failed as error:
                        sample["failed"] = str(error)[-500:]
                    samples.append(sample)
                    outcome = sample.get("numbers") or f"failed: {sample['failed'].splitlines()[-1]}"
                    passed = f"{time.monotonic() - began:6.0f} s"
                    say(f"{passed}  {repetition + 1}  {scenario.name}  {contender.name}  {outcome}")
    return {"machine": machine, "seconds": round(time.monotonic() - began), "samples": samples}


def describe(server: RedisServer, contenders: list[Contender]) -> dict[str, Any]:
    """The machine and the versions of everything."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "?")
    wanted = ("asyncresult", "redis", "hiredis", "msgspec", "celery", "kombu", "uvloop", "anyio")
    versions = {name: importlib.metadata.version(name) for name in wanted}
    for contender in contenders:
        if contender.requirements:
            listing = subprocess.run(
                [contender.python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
                capture_output=True,
                check=True,
            )
            found = {package["name"].lower(): package["version"] for package in json.loads(listing.stdout)}
            names = [requirement.split("[")[0] for requirement in contender.requirements]
            versions[contender.name] = ", ".join(f"{name} {found[name]}" for name in [*names, "redis"] if name in found)
    info = server.info("server")
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": f"{model}, {os.cpu_count()} cores",
        "server": f"{server.flavour} {info.get('valkey_version') or info['redis_version']}",
        "versions": versions,
    }


def publish(results: dict[str, Any], path: Path) -> None:
    """The tables beside the results; charts, and what FILLED says, in the documentation."""
    tables = markdown(results)
    path.with_suffix(".md").write_text(tables, encoding="utf-8")
    print(tables)
    draw(results, PAGE.with_suffix(""))
    fill(results)


def fill(results: dict[str, Any]) -> None:
    for page, text in FILLED.items():
        head, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        tail = rest.partition(END)[2]
        page.write_text(f"{head}{BEGIN}\n\n{text(results)}\n{END}{tail}", encoding="utf-8")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
