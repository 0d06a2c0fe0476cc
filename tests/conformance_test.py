#!/usr/bin/env python3
"""tests/conformance_test.py [--root DIR]: checks tests/conformance.md against the tests.

The table has one row for each behaviour of asyncio in the areas that are built (B), and one for each trap into which
asyncio itself fell there (T). A row that says `tested` names the files where; each of them must name the number in a
comment. A number that a test names must not be told to be absent.
Prints each finding and the counts, ends with 1 if there is a finding.
"""

import argparse
import re
import sys
from pathlib import Path

# Runners, the loop, its exception handler, policies, futures, tasks, cancellation; shield, gather and the other waits;
# timeouts and task groups; eager tasks; locks; queues; executors; readers and sockets; addresses, races of
# connections, connections, servers, stream transports, datagrams and streams; contexts.
# The numbers are asyncio's behaviours as the project counts them; those that are left out were never given.
BEHAVIOURS = [
    *range(1, 8), *range(9, 23),
    *range(24, 28), *range(29, 46), *range(47, 55), *range(56, 60), *range(61, 65), *range(66, 69),
    70, 71, *range(73, 79),
    79, 80, *range(82, 88),
    *range(88, 110), 111, 113,
    *range(114, 118), *range(119, 124), *range(125, 142),
    *range(142, 151), 152, 153, *range(155, 159), 160, 161,
    *range(163, 170), *range(171, 178), 179, 180, *range(182, 188), *range(190, 194), 195, 196, *range(199, 206),
    *range(207, 214), 215, 217, 219, 220, 221,
    *range(223, 228), *range(229, 236), 237, 238, 239, *range(241, 246),
    *range(247, 254), 255, 256,
    *range(257, 266), 268, *range(270, 281), *range(282, 293),
    *range(293, 296), 297, 298, 301, 303,
    *range(304, 314), *range(315, 335),
    335, 336, *range(338, 341), *range(342, 354), 355,
    *range(356, 365), 366, 368,
    *range(370, 374), *range(375, 394),
    *range(394, 398), 399, 400, 402, 403,
    *range(404, 417),
    480, 481, 482,
]
# Those of processes come later.
TRAPS = [*range(1, 24), 25, *range(27, 33)]
STATUSES = ("tested", "differs", "n/a", "later")
LATER = ("Work stealing", "Coordination", "The network", "Child processes, pipes, signals and files")
AT_LEAST_TESTED = 200

ROW = re.compile(r"^\| *([BT]\d+) *\|([^|]*)\|([^|]*)\|([^|]*)\|$")
COMMENT = re.compile(r"//(.*)$", re.M)
NUMBER = re.compile(r"\b([BT]\d+)\b")


def named_in(path: Path) -> set[str]:
    """The numbers in the comments of a test."""
    return {n for comment in COMMENT.findall(path.read_text(encoding="utf-8")) for n in NUMBER.findall(comment)}


def check(root: Path) -> list[str]:
    findings = []
    numbers = [f"B{n}" for n in BEHAVIOURS] + [f"T{n}" for n in TRAPS]
    named = {path.relative_to(root).as_posix(): named_in(path) for path in sorted((root / "tests").rglob("*_test.cpp"))}
    rows: dict[str, str] = {}
    for line, text in enumerate((root / "tests/conformance.md").read_text(encoding="utf-8").splitlines(), 1):
        if not (match := ROW.match(text)):
            if re.match(r"\| *[BT]\d", text):
                findings.append(f"tests/conformance.md:{line}: not a row of four cells")
            continue
        number = match[1]
        words, status, where = (cell.strip() for cell in match.groups()[1:])
        place = f"tests/conformance.md:{line}: {number}"
        if number in rows:
            findings.append(f"{place} stands twice")
        if number not in numbers:
            findings.append(f"{place} is none of the numbers")
        rows[number] = status
        if status not in STATUSES:
            findings.append(f"{place}: '{status}' is none of {', '.join(STATUSES)}")
        if not words or not where:
            findings.append(f"{place} has an empty cell")
        files = re.findall(r"`(tests/[^`]*)`", where)
        if status == "tested" and not files:
            findings.append(f"{place} is tested nowhere")
        for file in files:
            if number not in named.get(file, ()):
                findings.append(f"{place}: {file} does not name it in a comment")
        if status == "later" and not any(issue in where for issue in LATER):
            findings.append(f"{place}: later, but with which of {', '.join(LATER)}?")
    for number in numbers:
        if number not in rows:
            findings.append(f"tests/conformance.md: {number} is missing")
    for file, some in named.items():
        for number in sorted(some):
            if number in rows and rows[number] not in ("tested", "differs"):
                findings.append(f"{file} names {number}, which is '{rows[number]}' in tests/conformance.md")
    counts = {status: sum(1 for s in rows.values() if s == status) for status in STATUSES}
    print(f"{len(rows)} behaviours and traps: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    if counts["tested"] < AT_LEAST_TESTED:
        findings.append(f"only {counts['tested']} are tested; at least {AT_LEAST_TESTED} must be")
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    findings = check(parser.parse_args().root)
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
