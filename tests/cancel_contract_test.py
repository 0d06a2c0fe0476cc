#!/usr/bin/env python3
"""tests/cancel_contract_test.py [--root DIR]: what every public awaitable says of cancellations has a row in a test.

The public headers are read for what can be awaited: functions and members that give a Coroutine, a Future or any other
awaitable, and classes with operator co_await. Each needs a line "If cancelled: …" in its documentation (that of an
overload before it, or of the class that it gives, will do), and a row of its name in one of the tables that check these
lines. A row of a name that is none of them is a finding, too; and so is a function that gives `auto` of which this test
cannot tell. Prints each finding and the count, ends with 1 if there is a finding.
"""

import argparse
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

HEADERS = ("runtime/include/ouro/runtime", "io/include/ouro/io")
TABLES = ("tests/io/cancel_contract_test.cpp", "tests/io/network_contract_test.cpp",
          "tests/io/servers_contract_test.cpp", "tests/io/streams_contract_test.cpp",
          "tests/io/interop_contract_test.cpp",
          "tests/runtime/sync_cancel_test.cpp")
LINE = re.compile(r"\bIf cancelled:")
ROW = re.compile(r'^ *(?:(?:\w+\.push_back\()?\w+_row\(\s*|Row row\{|\{)"([A-Za-z_]\w*(?:::\w+)?)[^"]*",', re.M)
AT_LEAST = 65

# What a function gives, by the name of the type, or where it gives `auto` by the name of what its body returns.
AWAITABLE = re.compile(r"^(Coroutine|Future|Task|Gather|Map|Wait|Shield|NextFuture|NextCompleted|\w*Awaiter|GroupJoin|"
                       r"BarrierAction|timed|timed_call|run_task_group|gather_vector|map_in_order|schedule|float_task|"
                       r"ensure_future_on|start|acquire|scoped|run_in_executor|wait|staggered_race|Sock[A-Z]\w+|"
                       r"run_until_stop|run_stoppable|await_elsewhere|reading)$")
NOT_AWAITABLE = re.compile(r"^(map_as_they_come|start_remotely|AsCompleted|as_completed|submit|ConcurrentFuture|"
                           r"AsyncGenerator)$")
# Give `auto`, and nothing that can be awaited, though their bodies do not show it.
PLAIN = {"executor_submit"}
# Those that are known by another name.
NAMES = {"BasicQueue": "Queue"}
# The classes that other things give, which may have the line in their place.
GIVES = {"schedule": "Task", "float_task": "Task", "start": "Task", "ensure_future_on": "Task",
         "gather_vector": "Gather"}

KEYWORDS = {"requires", "decltype", "noexcept", "sizeof", "alignas", "nodiscard", "explicit", "if", "constexpr"}
CLASS = re.compile(r"(?:template\s+)?(?:requires.*?)?(class|struct)\b(?:\s*\[\[.*?\]\])?(?:\s+OURO_EXPORT)?\s+(\w+)",
                   re.S)
COMMENT_OR_STRING = re.compile(r'//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'')


@dataclass
class Scope:
    name: str = ""  # of a class
    public: bool = True
    hidden: bool = False  # detail, or inside what is not public


@dataclass
class Awaitable:
    key: str
    place: str
    gives: str = ""  # the class, where that may have the line
    lines: bool = False


@dataclass
class Found:
    functions: list[Awaitable] = field(default_factory=list)
    classes: dict[str, Awaitable] = field(default_factory=dict)
    documented: set[str] = field(default_factory=set)  # classes with the line
    unknown: list[str] = field(default_factory=list)


def blank(text: str) -> str:
    """The code without comments and what strings hold, place for place."""
    return COMMENT_OR_STRING.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)


def close_of(text: str, at: int, pair: str) -> int:
    """Behind the bracket that closes the one at `at`."""
    depth = 0
    for i in range(at, len(text)):
        depth += (text[i] == pair[0]) - (text[i] == pair[1] and text[i - 1] != "-")
        if depth == 0:
            return i + 1
    return len(text)


def without_templates(head: str) -> str:
    """The declaration without what stands in angle brackets."""
    while True:
        shorter = re.sub(r"<[^<>]*>", "", head.replace("->", "=>").replace("=>", "\0"))
        shorter = shorter.replace("\0", "->")
        if shorter == head:
            return head
        head = shorter


def name_and_type(head: str) -> tuple[str, str, str]:
    """(name, what stands before it, what stands behind its parameters) of a function; empty for anything else."""
    bare = without_templates(head)
    at = 0
    while match := re.compile(r"(\w+)\s*\(").search(bare, at):
        close = close_of(bare, match.end() - 1, "()")
        if match[1] not in KEYWORDS:
            return match[1], bare[:match.start()].strip(), bare[close:]
        at = close
    return "", "", ""


def given(head: str, body: str) -> str:
    """The name of what a function gives; `auto` if that cannot be told."""
    _, before, behind = name_and_type(head)
    type_name = re.split(r"[\s&*:]+", before.rstrip("&* "))[-1] if before else ""
    if type_name != "auto":
        return type_name
    if trailing := re.search(r"->\s*([\w:]+)", behind):
        return trailing[1].split("::")[-1]
    returned = " ".join(re.findall(r"\breturn\b[^;]*;", without_templates(body)))
    for name in re.findall(r"(\w+)\s*\(", returned):
        if AWAITABLE.match(name) or NOT_AWAITABLE.match(name):
            return name
    return "auto"


class Reader:
    def __init__(self, path: Path, name: str, found: Found):
        self.text = path.read_text(encoding="utf-8")
        self.code = re.sub(r"^\s*#[^\n]*", lambda m: " " * len(m.group(0)), blank(self.text), flags=re.M)
        self.file, self.found = name, found

    def comment_before(self, at: int) -> str:
        lines = self.text[:at].split("\n")[:-1]
        comment = []
        while lines and lines[-1].lstrip().startswith("//"):
            comment.append(lines.pop())
        return "\n".join(reversed(comment))

    def read(self, at: int, end: int, scope: Scope) -> None:
        previous: dict[str, bool] = {}
        while at < end:
            match = re.compile(r"\S").search(self.code, at, end)
            if not match:
                return
            start = match.start()
            if access := re.compile(r"(public|private|protected)\s*:(?!:)").match(self.code, start):
                scope.public, at = access[1] == "public", access.end()
                continue
            stop = start
            while stop < end and self.code[stop] not in ";{":
                stop = close_of(self.code, stop, "()") if self.code[stop] == "(" else stop + 1
            head = self.code[start:stop]
            if re.match(r"(template\s*<.*>\s*)?concept\b", without_templates(head) if "concept" in head else "", re.S):
                while stop < end and self.code[stop] != ";":
                    stop = close_of(self.code, stop, "{}") if self.code[stop] == "{" else stop + 1
                at = stop + 1
                continue
            body_end = close_of(self.code, stop, "{}") if stop < end and self.code[stop] == "{" else stop + 1
            comment = self.comment_before(start)
            for_library = "For the library" in comment
            inner = self.inner_scope(head, scope) if self.code[stop:stop + 1] == "{" else None
            if inner:
                if inner.name and not inner.hidden and LINE.search(comment):
                    self.found.documented.add(inner.name)
                self.read(stop + 1, body_end - 1, inner)
            elif scope.public and not scope.hidden and not for_library:
                self.declaration(head, self.code[stop:body_end], start, comment, scope, previous)
            at = body_end

    @staticmethod
    def inner_scope(head: str, scope: Scope) -> Scope | None:
        bare = without_templates(head).strip()
        if match := re.match(r"(?:inline )?namespace\s*([\w:]*)$", bare):
            return Scope(hidden=scope.hidden or "detail" in match[1])
        if bare == "OURO_TRANSFER_NAMESPACE":
            return Scope(hidden=scope.hidden)
        if match := CLASS.match(bare):
            hidden = (scope.hidden and match[2] not in NAMES) or not scope.public or bool(scope.name)
            return Scope(match[2], match[1] == "struct", hidden)
        if re.match(r"(enum|union)\b", bare):
            return Scope(hidden=True)
        return None

    def declaration(self, head: str, body: str, start: int, comment: str, scope: Scope, previous: dict) -> None:
        place = f"{self.file}:{self.text.count(chr(10), 0, start) + 1}"
        if re.search(r"operator\s+co_await", head):
            if scope.name:
                self.found.classes.setdefault(scope.name, Awaitable(scope.name, place))
            return
        if re.match(r"(using|friend|static_assert|typedef)\b", head) or "operator" in head:
            return
        name, before, _ = name_and_type(head)
        if not name or not before or name == scope.name:
            return
        gives = given(head, body)
        key = f"{NAMES.get(scope.name, scope.name)}::{name}" if scope.name else name
        if gives == "auto" and key in PLAIN:
            return
        if gives == "auto":
            self.found.unknown.append(f"{place}: cannot tell whether what {key} gives can be awaited")
            return
        if not AWAITABLE.match(gives) or NOT_AWAITABLE.match(gives):
            return
        has_line = bool(LINE.search(comment)) or previous.get(name, False)
        previous[name] = has_line
        self.found.functions.append(Awaitable(key, place, gives, has_line))


def check(root: Path) -> list[str]:
    found = Found()
    for folder in HEADERS:
        for path in sorted((root / folder).glob("*.hpp")):
            reader = Reader(path, path.relative_to(root).as_posix(), found)
            reader.read(0, len(reader.code), Scope())
    findings = list(found.unknown)
    rows = {row for table in TABLES for row in ROW.findall((root / table).read_text(encoding="utf-8"))}
    names = set()
    given_by_functions = {function.gives for function in found.functions} - {"Coroutine", "Future"}
    for awaitable in found.functions:
        names.add(awaitable.key)
        if not awaitable.lines and GIVES.get(awaitable.gives, awaitable.gives) not in found.documented - {"Coroutine"}:
            findings.append(f"{awaitable.place}: {awaitable.key} has no line 'If cancelled: …'")
    for name, awaitable in found.classes.items():
        if name in given_by_functions:
            continue
        names.add(name)
        if name not in found.documented:
            findings.append(f"{awaitable.place}: {name} can be awaited, and has no line 'If cancelled: …'")
    names.add("Task")  # which is a Future
    for name in sorted(names - rows):
        findings.append(f"{name} has no row in {' or '.join(TABLES)}")
    for name in sorted(rows - names):
        findings.append(f"the row {name} is of nothing public that can be awaited")
    if len(names) < AT_LEAST:
        findings.append(f"only {len(names)} awaitables were found; there are at least {AT_LEAST}")
    print(f"{len(names)} public awaitables, {len(rows)} rows")
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
