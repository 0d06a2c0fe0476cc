"""The programs of the benchmarks: how they are built, run, and what they print. Shared by tools/quickstart and the
scripts of bench/."""

import os
import selectors
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNITS = ("_ns", "_us", "_ms", "_mb", "_per_s")


def build(compiler, target):
    """Builds the target with the flags of a release; the folder with the programs. Ends the script if that fails."""
    folder = ROOT / "build" / ("ratios-" + Path(compiler).name)
    for command in (["cmake", "--preset", "bench", "-B", folder, f"-DCMAKE_CXX_COMPILER={compiler}"],
                    ["cmake", "--build", folder, "--target", target]):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{done.stdout}{done.stderr}\n{Path(sys.argv[0]).name}: the build failed")
    return folder


def parse(line):
    """The figure of a RESULT line, or the notice of a SKIP line; None for any other line."""
    kind, _, rest = line.strip().partition(" ")
    if kind not in ("RESULT", "SKIP"):
        return None
    figure = {"kind": kind.lower()}
    for field in rest.split():
        key, _, value = field.partition("=")
        figure[key] = value
    for key in ("N", "threads", "runs"):
        if key in figure:
            figure[key] = int(figure[key])
    for key in figure:
        if key in ("ns", "min", "max", "predicted_s", "share", "load") or key.endswith(UNITS):
            figure[key] = float(figure[key])
    return figure


def stop(process):
    """Ends the program and what it started: they are a session of their own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def run(command, timeout_s, on_line=None, cwd=None):
    """Runs a program and hands on each line as it comes. Returns (error or None, all its lines)."""
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                   start_new_session=True, cwd=cwd)
    except OSError as error:
        return str(error), []
    until = time.monotonic() + timeout_s
    lines, rest = [], b""
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                left = until - time.monotonic()
                if left <= 0:
                    return f"was stopped after {timeout_s:.0f} s", lines
                if not selector.select(left):
                    continue
                chunk = os.read(process.stdout.fileno(), 65536)
                if not chunk:
                    break
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    lines.append(line.decode(errors="replace"))
                    if on_line:
                        on_line(lines[-1])
        process.wait(max(1, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return f"was stopped after {timeout_s:.0f} s", lines
    finally:
        stop(process)
        process.stdout.close()
    if process.returncode == 0:
        return None, lines
    told = next((line for line in reversed(lines) if line.strip() and parse(line) is None), "")
    ended = f"signal {-process.returncode}" if process.returncode < 0 else f"status {process.returncode}"
    return f"ended with {ended}" + (f": {told.strip()}" if told else ""), lines


def figures(command, timeout_s=120):
    """The figures that a program prints. Ends the script with 2 if it fails."""
    error, lines = run([str(part) for part in command], timeout_s)
    found = [figure for figure in map(parse, lines) if figure and figure["kind"] == "result"]
    if error or not found:
        print(*lines[-10:], f"{' '.join(map(str, command))}: {error or 'printed no figure'}", sep="\n", file=sys.stderr)
        sys.exit(2)
    return found


class Samples:
    """What several rounds gave: medians of a field, by any key."""

    def __init__(self):
        self.taken = {}

    def add(self, key, figure):
        self.taken.setdefault(key, []).append(figure)

    def median(self, key, field="ns"):
        return statistics.median(figure[field] for figure in self.taken[key])


def pinned(command, cpus):
    """The command, kept to the processors of a list as taskset takes it."""
    return ["taskset", "--cpu-list", cpus, *command] if cpus else list(command)


class Figures:
    """The best of what was measured, by peer, work and size."""

    def __init__(self):
        self.best = {}

    def add(self, figure):
        key = figure["peer"], figure["work"], figure["N"]
        known = self.best.get(key)
        if known is None:
            self.best[key] = dict(figure)
            return
        for field, better in (("ns", min), ("min", min), ("max", max), ("wall_ms", min)):
            if field in figure:
                known[field] = better(known[field], figure[field])
        known["runs"] += figure["runs"]

    def get(self, peer, work, size=None):
        """One figure; without a size the one of the greatest size."""
        if size is not None:
            return self.best.get((peer, work, size))
        sizes = [n for p, w, n in self.best if (p, w) == (peer, work)]
        return self.best[peer, work, max(sizes)] if sizes else None

    def least(self, peer, work, size=None):
        figure = self.get(peer, work, size)
        return figure["min"] if figure else None

    def listed(self):
        return [{key: value for key, value in figure.items() if key != "kind"} for figure in self.best.values()]
