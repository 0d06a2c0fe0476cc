"""The programs of the main job: how they are run and what they print. Shared by tools/quickstart and bench/ratios."""

import os
import selectors
import signal
import subprocess
import time


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
    for key in ("ns", "min", "max", "wall_ms", "predicted_s"):
        if key in figure:
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
