#!/usr/bin/env python3
"""tools/count_tests.py FILE: prints "passed failed skipped" from the JUnit file that ctest wrote."""

import sys
import xml.etree.ElementTree as xml


def verdict(case: xml.Element) -> str:
    if case.get("status") == "run":
        return "passed"
    # A test that skips itself and one that cannot start are both "notrun"; the message tells them apart.
    message = case.find("skipped")
    own_wish = message is not None and message.get("message", "").startswith("SKIP_")
    return "skipped" if own_wish or case.get("status") == "disabled" else "failed"


def main() -> int:
    try:
        suite = xml.parse(sys.argv[1]).getroot()
    except (OSError, xml.ParseError) as error:
        print(f"count_tests: {sys.argv[1]}: {error}", file=sys.stderr)
        return 1
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for case in suite.iter("testcase"):
        counts[verdict(case)] += 1
    if not any(counts.values()):
        print("count_tests: no test ran", file=sys.stderr)
        return 1
    print(counts["passed"], counts["failed"], counts["skipped"])
    return 0


sys.exit(main())
