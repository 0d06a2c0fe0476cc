#!/usr/bin/env python3
"""tools/layers.py [--root DIR]: checks the form of the tree.

The floors below are the architecture: a file includes only what lies on a lower floor, or above it in its own floor's
list. A source counts with the header of its name, unless the table gives it a place of its own (`name.cpp`). Beside the
floors: includes that go round in a circle, files that no CMakeLists.txt lists, sizes, widths, and words and calls that
do not belong here. Prints each finding, ends with 1 if there is one.
"""

import argparse
import re
import sys
from pathlib import Path

# Lowest first. The non-template halves of core, futures, tasks and generators speak to the loop, so these sources
# stand above it though their headers do not. Where a floor of `io` meets one of `runtime`, runtime is below.
RUNTIME = [
    ("F0", ["config", "clock", "config.cpp", "exceptions", "exception_group", "detail/atomic", "detail/futex",
            "detail/frame_pool", "detail/timer_node", "detail/ready_queue", "detail/spin_lock", "detail/counter",
            "detail/queue_items"]),
    ("F1", ["parker", "detail/record", "detail/core", "detail/result", "detail/context_state", "detail/loop_event",
            "detail/callback_node", "detail/gather_state", "detail/gather_slots", "detail/generator_state",
            "detail/errand", "events", "awaitable", "detail/worker_group", "detail/wait_list", "detail/loop_timer",
            "detail/wait_core"]),
    ("F2", ["contextvars", "coroutine", "futures", "concurrent_future", "tasks", "generators"]),
    ("F3", ["timer_wheel", "inject_queue", "barrier", "steal_deque", "idle_workers", "quiet_gate", "drive", "report",
            "inbox.cpp", "tsan_exceptions.cpp", "registry", "worker", "shared", "wait_graph", "context_map"]),
    ("F4", ["executors", "thread_pool", "thread_parker", "base_event_loop", "turns", "core.cpp", "futures.cpp",
            "tasks.cpp", "generators.cpp", "errand.cpp", "report.cpp", "thread_pool.cpp", "executors.cpp", "close.cpp",
            "base_event_loop.cpp", "destroy", "bury", "shared.cpp", "elsewhere", "group_walk",
            "cancel_shared", "ring_search", "worker_group.cpp", "group_turns",
            "loop_timer.cpp", "contextvars.cpp", "wait_graph.cpp", "deadlock"]),
    ("F5", ["sleep", "detail/gather_storage", "gather", "map", "fork_join", "gather.cpp", "gather_cancel",
            "gather_shared", "map_shared", "fork_join.cpp", "gather_public", "sleep.cpp", "threads", "shutdown",
            "wait_list.cpp", "locks", "conditions", "queues", "channel", "timeouts", "wait", "as_completed",
            "detail/map_state", "detail/map_job", "map_unordered", "task_group_state", "taskgroups", "group_join",
            "staggered", "interop"]),
]
IO = [
    ("I0", ["errors", "addresses", "fd", "ring", "cgroup", "processors", "ring_buffers"]),
    ("I1", ["detail/operation", "ring.cpp", "ring_requests", "proactor", "detail/io_wait", "sockets",
            "sockets.cpp", "protocols", "transports", "servers", "detail/stream_state"]),
    ("I2", ["resolver", "detail/happy_eyeballs", "detail/connections", "datagrams"]),
    ("I3", ["detail/watchers", "event_loop", "io_wait.cpp", "watchers.cpp"]),
    ("I4", ["network", "server_state", "send_queue", "socket_transport", "datagram_endpoint",
            "network.cpp", "send_queue.cpp", "socket_sending", "datagram_sending", "listener", "servers.cpp",
            "connections.cpp", "datagrams.cpp"]),
    ("I5", ["policies", "event_loop.cpp", "runners", "crew", "runners.cpp", "streams",
            "stream_reader"]),
    ("I6", ["ouro"]),
]
# Headers of src/, which no public header may see.
PRIVATE = {"runtime": {"timer_wheel", "inject_queue", "steal_deque", "idle_workers", "drive", "report", "thread_pool",
                       "registry", "worker", "shared", "turns", "barrier", "gather_shared", "group_walk",
                       "task_group_state", "wait_graph", "quiet_gate", "context_map"},
           "io": {"fd", "cgroup", "ring", "ring_buffers", "proactor", "network", "server_state", "send_queue",
                  "socket_transport", "datagram_endpoint", "crew"}}

WIDTH = 120
LINES = {"header": 450, "source": 500, "test": 600}
FUNCTION_LINES = 70

BANNED_WORDS = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b")
# (where, what, why); read in code without comments and strings.
BANNED_CODE = [
    (("runtime/", "io/"), re.compile(r"\bstd::condition_variable"),
     "std::condition_variable: a loop sleeps in its Parker"),
    (("runtime/", "io/"), re.compile(r"(?<![\w.>])(?:::)?v?fork\s*\(\s*\)"), "fork() in the library"),
    (("tests/",), re.compile(r"\b(?:sleep_for|sleep_until|usleep|nanosleep)\s*\("),
     "a sleep in a test: use a manual clock or a latch, or say `// blocking work` on the line"),
]
# asyncio's verbs of the same names belong to the library itself.
ALLOWED_CODE = re.compile(r"\bouro::sleep_until\s*\(")
BLOCKING_WORK = "// blocking work"

TREES = ["runtime", "io", "tests", "bench", "tools", "cmake"]
EXEMPT = ("tests/acceptance/", "bench/peers/")  # given from outside, word for word
TOKEN = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(?P<raw>[^(\s]{0,16})\(.*?\)(?P=raw)"|"(?:\\.|[^"\\\n])*"'
    r'|\b\d[\w.\']*|\'(?:\\.|[^\'\\\n])+\'', re.S)


def blank(text: str) -> str:
    """The code without comments and without what strings hold, line for line."""

    def replace(match: re.Match) -> str:
        found = match.group(0)
        if found[0].isdigit():
            return found
        inner = re.sub(r"[^\n]", " ", found)
        return inner if found[0] == "/" else '"' + inner[2:] + '"' if "\n" not in found else inner

    return TOKEN.sub(replace, text)


class Tree:
    def __init__(self, root: Path):
        self.root = root
        self.findings: list[str] = []
        self.rank: dict[tuple[str, str], tuple[int, int]] = {}
        self.floor: dict[tuple[str, str], str] = {}
        for library, floors in (("runtime", RUNTIME), ("io", IO)):
            for level, (floor, names) in enumerate(floors):
                for place, name in enumerate(names):
                    above = len(RUNTIME) if library == "io" else 0
                    self.rank[library, name] = (above + level, place)
                    self.floor[library, name] = floor

    def report(self, path: str, line: int, message: str) -> None:
        self.findings.append(f"{path}:{line}: {message}" if line else f"{path}: {message}")

    def files(self, *suffixes: str) -> list[str]:
        paths = []
        for tree in TREES:
            for path in sorted((self.root / tree).rglob("*")):
                if path.is_file() and path.suffix in suffixes and "__pycache__" not in path.parts:
                    paths.append(path.relative_to(self.root).as_posix())
        return paths

    def read(self, path: str) -> str:
        return (self.root / path).read_text(encoding="utf-8")

    # The floors.

    def component(self, path: str) -> tuple[str, str] | None:
        """(library, name) of a file of the library, by where it lies."""
        match = re.fullmatch(r"(runtime|io)/(?:include/ouro/(?:runtime/|io/)?|src/)(.+)\.[ch]pp", path)
        if not match:
            return None
        library, name = match.groups()
        if (library, name) not in self.rank and (library, "detail/" + name) in self.rank:
            name = "detail/" + name
        return library, name

    def place(self, path: str, own: tuple[str, str]) -> tuple[str, str]:
        """Whose rank the file at path has: its own, or that of the header of its name."""
        source = own[0], Path(path).name
        return source if source in self.rank else own

    def target(self, path: str, included: str, quoted: bool) -> tuple[str, str] | None:
        """(library, name) of what an #include line means; None for what is not ours."""
        if included == "ouro/ouro.hpp":
            return "io", "ouro"
        match = re.fullmatch(r"ouro/(runtime|io)/(.+)\.hpp", included)
        if match:
            return match.group(1), match.group(2)
        if quoted:
            return path.split("/")[0], included.removesuffix(".hpp")
        return None

    def check_floors(self) -> None:
        edges: dict[tuple[str, str], set[tuple[str, str]]] = {}
        for path in self.files(".hpp", ".cpp"):
            if not path.startswith(("runtime/", "io/")):
                continue
            own = self.component(path)
            if own is None or self.place(path, own) not in self.rank:
                self.report(path, 0, "is on no floor: add it to the table of tools/layers.py")
                continue
            for number, line in enumerate(self.read(path).splitlines(), 1):
                match = re.match(r'\s*#\s*include\s*(?:<([^>]+)>|"([^"]+)")', line)
                if match:
                    self.check_include(path, number, own, match.group(1) or match.group(2), bool(match.group(2)), edges)
        self.check_cycles(edges)

    def check_include(self, path, number, own, included, quoted, edges) -> None:
        if included == "liburing.h" and own not in (("io", "ring"), ("io", "ring_requests"), ("io", "ring_buffers")):
            self.report(path, number, "only io/src/ring* includes <liburing.h>")
        other = self.target(path, included, quoted)
        if other is None or other == own:
            return
        if other not in self.rank:
            self.report(path, number, f"includes {included}, which is on no floor")
            return
        if path.endswith(".hpp"):
            edges.setdefault(own, set()).add(other)
        private = other[1] in PRIVATE[other[0]]
        if private and "/include/" in path:
            self.report(path, number, f"a public header includes the private {included}")
        elif private and other[0] != own[0]:
            self.report(path, number, f"includes the private {included} of the other library")
        place = self.place(path, own)
        if self.rank[other] >= self.rank[place]:
            self.report(path, number, f"{'/'.join(place)} ({self.floor[place]}) includes {'/'.join(other)} "
                        f"({self.floor[other]}), which is not below it")

    def check_cycles(self, edges) -> None:
        done: set[tuple[str, str]] = set()

        def visit(node, trail) -> None:
            if node in trail:
                circle = [*trail[trail.index(node):], node]
                self.report("includes", 0, "go round in a circle: " + " -> ".join("/".join(n) for n in circle))
            elif node not in done:
                for following in sorted(edges.get(node, ())):
                    visit(following, [*trail, node])
                done.add(node)

        for node in sorted(edges):
            visit(node, [])

    # Files that nothing builds.

    def check_lists(self) -> None:
        for path in self.files(".hpp", ".cpp"):
            top = path.split("/")[0]
            if top in ("runtime", "io"):
                where, name = "CMakeLists.txt", path
            elif re.fullmatch(r"tests/(runtime|io)/.+_test\.cpp", path):
                where, name = "tests/CMakeLists.txt", f"ouro_add_test({path[len('tests/'):-len('_test.cpp')]}"
            elif re.fullmatch(r"tests/model/.+\.cpp", path):
                name = Path(path).name
                test = name.removesuffix("_test.cpp")
                where, name = "tests/model/CMakeLists.txt", name if test == name else f"ouro_add_model(model/{test}"
            elif re.fullmatch(r"tests/acceptance/.+\.cpp", path):
                program = path[len("tests/acceptance/"):-len(".cpp")]
                where, name = "tests/acceptance/CMakeLists.txt", f"ouro_add_acceptance({program})"
            else:
                continue
            lists = self.root / where
            text = re.sub(r"#[^\n]*", "", lists.read_text(encoding="utf-8")) if lists.exists() else ""
            if not re.search(r"(?<![\w/])" + re.escape(name) + r"(?![\w/])", text):
                self.report(path, 0, f"is not listed in {where}")

    # Sizes, widths, words.

    def check_sizes(self, path: str, text: str, code: str) -> None:
        kind = "test" if path.startswith("tests/") else "header" if path.endswith(".hpp") else "source"
        lines = text.count("\n")
        if lines > LINES[kind]:
            self.report(path, 0, f"has {lines} lines; a {kind} has at most {LINES[kind]}")
        for start, length in functions(code):
            if length > FUNCTION_LINES:
                self.report(path, start, f"a function of {length} lines; at most {FUNCTION_LINES}")

    def check_code(self, path: str, text: str, code: str) -> None:
        for number, (line, bare) in enumerate(zip(text.splitlines(), code.splitlines()), 1):
            for where, pattern, why in BANNED_CODE:
                if path.startswith(where) and pattern.search(ALLOWED_CODE.sub("", bare)) and BLOCKING_WORK not in line:
                    self.report(path, number, why)

    def check_text(self, path: str, text: str) -> None:
        for number, line in enumerate(text.splitlines(), 1):
            if len(line) > WIDTH:
                self.report(path, number, f"is {len(line)} characters wide; at most {WIDTH}")
            match = BANNED_WORDS.search(line)
            if match:
                self.report(path, number, f"says {match.group(0)}: do it, or open an issue and leave it out")

    def check(self) -> list[str]:
        self.check_floors()
        self.check_lists()
        for path in self.files(".hpp", ".cpp", ".py", ".cmake", ".txt", ".in", ".sh", ""):
            if path.startswith(EXEMPT):
                continue
            text = self.read(path)
            self.check_text(path, text)
            if path.endswith((".hpp", ".cpp")):
                code = blank(text)
                self.check_sizes(path, text, code)
                self.check_code(path, text, code)
        return self.findings


def functions(code: str) -> list[tuple[int, int]]:
    """(first line, lines) of each outermost function body, told by the text before its brace."""
    code = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda found: re.sub(r"[^\n]", " ", found[0]), code, flags=re.M)
    found, stack, head, line = [], [], "", 1
    for character in code:
        if character == "{":
            inside = bool(stack) and stack[-1][0]
            function = is_function(head)
            stack.append((inside or function, line, function and not inside, head.lstrip().count("\n")))
            head = ""
        elif character == "}":
            if stack:
                _, opened, outermost, signature = stack.pop()
                if outermost:
                    found.append((opened - signature, line - opened + signature + 1))
            head = ""
        elif character == ";":
            head = ""
        else:
            head += character
        line += character == "\n"
    return found


NO_FUNCTION = re.compile(
    r"^\s*(?:template\s*<[^{]*>\s*)?(?:requires\b[^{]*\s)?"
    r"(?:namespace|class|struct|union|enum|concept|extern|inline\s+namespace)\b")


def is_function(head: str) -> bool:
    return ")" in head and not NO_FUNCTION.search(head)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    findings = Tree(parser.parse_args().root).check()
    print("\n".join(findings) if findings else "layers: nothing found")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
