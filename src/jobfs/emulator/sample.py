"""A sample workspace: what a job on a small study of rainfall might have, always the same."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Mapping

from .jobside import JobSide

_STATIONS = ("Bergen", "Cherrapunji", "Kyoto", "Lagos", "Quito", "Seattle", "Tórshavn", "Zürich")
_MONTHS = tuple(f"2025-{month:02d}" for month in range(1, 13))


def seed_sample(side: JobSide) -> int:
    """Fill an empty workspace with the sample; leave any other as it is. Return the number of items."""
    if not side.items():
        side.seed(_defaults(), lifecycle="application", owner="user", age=30 * 86_400)
        side.seed({"brief.md": _BRIEF}, permission="readOnly", owner="user", age=7200)
        side.seed(_sources(), age=5400)
        side.seed(_data(), age=3600)
        side.seed(_reports(), age=1800)
        side.seed({"config/settings.json": json.dumps({"threshold_mm": 4.0, "stations": 8}, indent=2) + "\n"})
    return len(side.items())


def _defaults() -> Mapping[str, str | bytes | None]:
    """Return the files of the workspace's defaults; the job has its own version of the settings."""
    return {
        ".editorconfig": "root = true\n\n[*]\nindent_style = space\nindent_size = 4\nend_of_line = lf\n",
        "config/settings.json": json.dumps({"threshold_mm": 2.5, "stations": 8}, indent=2) + "\n",
        "templates/report.md": "# {title}\n\n## Summary\n\n{summary}\n\n## Figures\n\n{figures}\n",
        "templates/letter.txt": "Dear reader,\n\nplease find the results attached.\n\nKind regards\n",
        "guidelines/style.md": "# Style\n\n- Short sentences.\n- SI units.\n- Say how sure you are.\n",
        "guidelines/sources.md": "# Sources\n\nCite the station and the month for every figure.\n",
    }


def _sources() -> Mapping[str, str | bytes | None]:
    return {
        "src/rainfall/__init__.py": '"""Monthly rainfall: read, clean, compare."""\n',
        "src/rainfall/load.py": _LOAD,
        "src/rainfall/clean.py": _CLEAN,
        "src/rainfall/compare.py": _COMPARE,
        "src/rainfall/__main__.py": _MAIN,
        "tests/test_clean.py": _TEST,
        "tests/fixtures/empty.csv": "",
        "requirements.txt": "numpy>=1.26\n",
        "Makefile": "all: report\n\nreport:\n\tpython -m rainfall data/measurements.csv\n",
        "scratch/a file with spaces.txt": "Names may have spaces.\n",
        "scratch/empty directory": None,
    }


def _data() -> Mapping[str, str | bytes | None]:
    rng = random.Random(7)
    data: dict[str, str | bytes | None] = {"data/measurements.csv": _measurements(rng)}
    for station in _STATIONS:
        rows = [f"{month},{rng.gammavariate(4, 25):.1f}" for month in _MONTHS]
        data[f"data/stations/{station}.csv"] = "month,rain_mm\n" + "\n".join(rows) + "\n"
    data["data/観測/東京.csv"] = (
        "月,降水量\n" + "\n".join(f"{m},{rng.gammavariate(4, 30):.1f}" for m in _MONTHS) + "\n"
    )
    data["data/stations.json"] = json.dumps(
        [{"name": name, "height_m": rng.randrange(0, 2900)} for name in _STATIONS],
        indent=2,
        ensure_ascii=False,
    )
    data["figures/monthly.png"] = _png(rng)
    return data


def _reports() -> Mapping[str, str | bytes | None]:
    rng = random.Random(8)
    reports: dict[str, str | bytes | None] = {
        "README.md": "# Rainfall study\n\nStart with `reports/summary.md`; raw data is in `data/`.\n",
        "notes.md": "# Notes\n\n- Lagos has a gap in June.\n- Ask about the gauge in Quito.\n",
        "reports/summary.md": _table("Summary", rng),
        "reports/Übersicht März.md": _table("Übersicht März", rng),
        "reports/☔ wettest days.md": "# Wettest days\n\n1. Cherrapunji\n2. Bergen\n3. Tórshavn\n",
        "logs/setup.log": "".join(
            f"2025-11-03T09:{minute:02d}:00Z INFO step {minute}: {text}\n"
            for minute, text in enumerate(
                ("read the brief", "list stations", "fetch data", "check units") * 12
            )
        ),
        "logs/errors.log": "2025-11-03T09:17:41Z WARNING Lagos: 30 values missing\n",
    }
    for quarter in range(1, 5):
        reports[f"reports/2025/q{quarter}.md"] = _table(f"Quarter {quarter}", rng)
    return reports


def _measurements(rng: random.Random) -> str:
    """Return about 1.4 MiB of daily values."""
    rows = ["station,date,rain_mm,temperature_c,quality"]
    for station in _STATIONS:
        for day in range(4800):
            date = f"{2012 + day // 365}-{day % 365 // 31 + 1:02d}-{day % 31 + 1:02d}"
            rain, warmth = max(rng.gauss(2, 6), 0), rng.gauss(14, 8)
            rows.append(
                f"{station},{date},{rain:.2f},{warmth:.2f},{'ok' if rng.random() > 0.02 else 'check'}"
            )
    return "\n".join(rows) + "\n"


def _table(title: str, rng: random.Random) -> str:
    rows = [f"| {name} | {rng.gammavariate(4, 90):.0f} | {rng.uniform(-9, 9):+.1f} % |" for name in _STATIONS]
    return f"# {title}\n\n| station | rain, mm | change |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def _png(rng: random.Random) -> bytes:
    """Draw a bar chart, grey on white."""
    width, height = 120, 60
    bars = [rng.randrange(8, height) for _ in range(12)]
    lines = [
        b"\0" + bytes(160 if height - y <= bars[x // 10] and x % 10 < 8 else 255 for x in range(width))
        for y in range(height)
    ]

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    image = zlib.compress(b"".join(lines))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", image) + chunk(b"IEND", b"")


_BRIEF = """# Brief

Compare the rainfall of eight stations over 2025.

1. Clean the measurements in `data/`.
2. Write one report a quarter and a summary.
3. Say where data is missing.
"""

_LOAD = '''"""Reads measurements."""

import csv
from pathlib import Path


def load(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
'''

_CLEAN = '''"""Drops what can't be trusted."""


def clean(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [row for row in rows if row["quality"] == "ok" and float(row["rain_mm"]) < 900]
'''

_COMPARE = '''"""Totals by station."""

from collections import defaultdict


def totals(rows: list[dict[str, str]]) -> dict[str, float]:
    result: dict[str, float] = defaultdict(float)
    for row in rows:
        result[row["station"]] += float(row["rain_mm"])
    return dict(result)
'''

_MAIN = '''"""python -m rainfall FILE"""

import sys
from pathlib import Path

from .clean import clean
from .compare import totals
from .load import load

for station, rain in sorted(totals(clean(load(Path(sys.argv[1])))).items()):
    print(f"{station:<14}{rain:>10.1f} mm")
'''

_TEST = """from rainfall.clean import clean


def test_values_marked_for_a_check_are_dropped():
    assert clean([{"quality": "check", "rain_mm": "1"}]) == []
"""
