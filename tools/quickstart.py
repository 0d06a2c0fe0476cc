"""The main job, side by side: called by tools/quickstart, which has the options and what they mean."""

import argparse
import copy
import datetime
import json
import os
import platform
import re
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))
sys.dont_write_bytecode = True

import peers  # noqa: E402
import plot  # noqa: E402
import programs  # noqa: E402

GATHERED = (2_000, 10_000, 100_000, 1_000_000)


class Work:
    """One work of the main job: its sizes (none: it has one of its own), and the limit: (program, work)."""

    def __init__(self, name, title, limit, sizes=(), seconds=1.0, alone=False):
        self.name, self.title, self.limit, self.sizes = name, title, limit, sizes
        self.quick_sizes = sizes[:1] and (2_000, 10_000)
        self.seconds = seconds  # budget of a peer
        self.alone = alone      # no peer has it


class ForkJoin(Work):
    """A work of bench/forkjoin, on two workers: a program of its own for each runtime, and no limit."""

    def __init__(self, name, title, size, quick_size):
        super().__init__(name, title, None, (size,), 5.0)
        self.quick_sizes = (quick_size,)

    def command(self, folder, variant):
        return [str(folder / "bench" / f"forkjoin_{self.name}_{variant}")]


# The long one is last: what the time does not suffice for is at its end.
WORKS = [
    Work("gather_imm", "gather, immediate", ("peer_bare", "imm_queued_recycled"), GATHERED, 3.0),
    Work("gather_yield", "gather, yielding once", ("peer_bare", "yield_queued_recycled"), GATHERED, 4.0),
    Work("map", "map, immediate", ("peer_bare", "imm_eager_recycled"), GATHERED, alone=True),
    Work("spawn_join", "spawn and join", ("peer_bare", "imm_queued_recycled"), GATHERED[1:], 3.0),
    Work("yield", "yield", ("peer_bare", "yield_1task")),
    Work("wake", "wake-up there and back", ("peer_bare_wait", "wake")),
    Work("executor_single", "executor, one by one", ("peer_bare_wait", "executor_single")),
    Work("executor_10k", "executor, 10,000 at once", ("peer_bare_wait", "executor_10k")),
    ForkJoin("fib", "fork and join, fib", 35, 28),
    ForkJoin("skynet", "fork and join, skynet", 1_000_000, 100_000),
    Work("gather_sleep", "gather, sleeping 1–10 ms", ("peer_bare_wait", "gather_sleep"), GATHERED, 7.0),
]
# (work, size) of each panel of the plot.
PANELS = [("gather_imm", 2_000), ("gather_imm", 1_000_000), ("map", 1_000_000), ("gather_yield", 2_000),
          ("gather_yield", 1_000_000), ("gather_sleep", 100_000), ("yield", None), ("spawn_join", 10_000),
          ("wake", None), ("fib", 35), ("skynet", 1_000_000), ("executor_single", None), ("executor_10k", None)]


class Progress:
    """A bar on a terminal; elsewhere a line for each step that is done."""

    def __init__(self, steps):
        self.steps, self.done, self.began = steps, 0, time.monotonic()
        self.bar = sys.stdout.isatty()
        self.title, self.found = "", []

    def clock(self):
        seconds = int(time.monotonic() - self.began)
        return f"{seconds // 60}:{seconds % 60:02d}"

    def draw(self, detail=""):
        if not self.bar:
            return
        width = max(40, os.get_terminal_size().columns - 1)
        filled = 24 * self.done // self.steps
        share = 100 * self.done // self.steps
        line = f"[{'█' * filled}{'·' * (24 - filled)}] {share:3d} %  {self.clock()}  {self.title}  {detail}"
        print("\r\x1b[K" + line[:width], end="", flush=True)

    def start(self, title):
        self.title, self.found = title, []
        self.draw()

    def saw(self, detail):
        self.found.append(detail)
        self.draw(detail)

    def end(self, summary=None):
        self.done += 1
        self.draw()
        if not self.bar:
            told = summary or "  ".join(self.found)
            told = f":  {told}" if told else ""
            print(f"[{self.done:3d}/{self.steps}] {self.clock()}  {self.title}{told}", flush=True)

    def say(self, line):
        print("\r\x1b[K" + line if self.bar else line, flush=True)

    def close(self):
        if self.bar:
            print("\r\x1b[K", end="")


class Quickstart:
    def __init__(self, options):
        self.options, self.began = options, time.monotonic()
        self.folder = ROOT / "build" / "quickstart"
        self.figures = programs.Figures()
        self.skipped, self.notes, self.broken = [], [], []
        self.works = WORKS
        if options.quick:
            self.works = [copy.copy(work) for work in WORKS]
            for work in self.works:
                work.sizes, work.seconds = work.quick_sizes, min(work.seconds, 0.6)
        found = peers.find(self.folder)
        wanted = options.peers.split(",") if options.peers else [peer.key for peer in found]
        self.all_peers = [peer for peer in found if peer.key in wanted]
        self.peers = [peer for peer in self.all_peers if peer.version]
        for key in wanted:
            if key != "none" and key not in [peer.key for peer in found]:
                sys.exit(f"quickstart: there is no peer {key}; there are {', '.join(peer.key for peer in found)}")

    # Building.

    def build(self):
        progress = Progress(100)
        self.configure(progress)
        log = self.folder / "build.log"

        def on_line(line):
            step = re.match(r"\[(\d+)/(\d+)\] (.*)", line)
            if step:
                progress.done = 100 * int(step[1]) // int(step[2])
                progress.draw(Path(step[3].split()[-1]).name)

        progress.start("building")
        jobs = ["--parallel", self.options.jobs] if self.options.jobs else []
        targets = ["cmake", "--build", str(self.folder), *jobs, "--target", "quickstart_programs"]
        error, lines = programs.run(targets, 900, on_line)
        log.write_text("\n".join(lines) + "\n", encoding="utf-8")
        if error:
            wrong = [at for at, line in enumerate(lines) if re.match(r"FAILED|.*\berror\b", line)]
            self.fail(progress, lines[wrong[0] if wrong else -40:][:40], f"the build failed; all of it is in {log}")
        for peer in self.peers:
            if peer.build and peer.key != "tokio_join_all":
                self.build_peer(progress, peer)
        self.peers = [peer for peer in self.peers if os.access(peer.command[0], os.X_OK) or "/" not in peer.command[0]]
        progress.close()
        print(f"built in {progress.clock()}", flush=True)

    def configure(self, progress):
        progress.start("configuring")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "peers").mkdir(exist_ok=True)
        error, lines = programs.run(["cmake", "--preset", "bench", "-B", str(self.folder)], 120, cwd=ROOT)
        if error:
            self.fail(progress, lines, f"cmake {error}")

    def build_peer(self, progress, peer):
        progress.start(f"building the peer {peer.title}")
        peers.prepare(peer)
        command, cwd = peer.build
        error, lines = programs.run(command, 120, cwd=cwd)
        if error:
            progress.say("\n".join(lines[-12:]))
            self.note(progress, f"{peer.title} was not built: {command[0]} {error}")

    @staticmethod
    def fail(progress, lines, reason):
        progress.close()
        print("\n".join(lines), f"quickstart: {reason}", sep="\n", file=sys.stderr)
        sys.exit(1)

    def note(self, progress, line):
        self.notes.append(line)
        progress.say(line)

    # Measuring.

    def plan(self):
        """Each step: (work, who, command). ouro and the limit come first and again last in each work."""
        steps = []
        for work in self.works:
            if isinstance(work, ForkJoin):
                steps.append((work, "ouro", work.command(self.folder, "gather")))
                steps += [(work, peer.title, work.command(self.folder, peer.key)) for peer in self.peers
                          if work.name in (peer.works or ())]
                continue
            own = [(work, "ouro", [str(self.folder / "bench" / "main_job")]),
                   (work, "limit", [str(self.folder / "bench" / work.limit[0]), "--allocate", "results"])]
            if work.limit[0] != "peer_bare":
                own[1][2][1:] = []
            others = []
            for peer in self.peers:
                if not work.alone and peer.key != "tokio_join_all" and (peer.works is None or work.name in peer.works):
                    others.append((work, peer.title, peer.command))
            steps += own + others + ([] if self.options.quick else own)
        return steps

    def measure(self):
        steps = self.plan()
        progress = Progress(len(steps))
        late = {}
        for work, who, command in steps:
            own = who in ("ouro", "limit")
            if not own and time.monotonic() - self.began > self.options.time:
                late.setdefault(work.title, []).append(who)
                progress.done += 1
                continue
            progress.start(f"{work.title}, {who}")
            seconds = min(work.seconds, 2.0) if own else work.seconds
            error = self.run_step(progress, work, who, command, seconds)
            if error:
                self.note(progress, f"{who}, {work.title}: {error}")
            if error and who == "ouro":
                self.broken.append(work.title)
            progress.end(error)
        progress.close()
        for title, left_out in late.items():
            self.note(progress, f"the time was over, left out: {title} of {', '.join(left_out)}")
        print(f"measured in {progress.clock()}", flush=True)

    def run_step(self, progress, work, who, command, seconds):
        """Runs one program for one work; returns what went wrong, or None."""
        found = []

        def on_line(line):
            figure = programs.parse(line)
            if not figure:
                return
            if figure["kind"] == "skip":
                self.skipped.append(figure)
                progress.saw(f"{figure['N']:,}: –")
                return
            figure["work"] = work.name
            if who == "limit":
                figure["peer"], figure["program"] = "limit", f"{work.limit[0]} {work.limit[1]}"
            if who == "ouro":
                figure["peer"] = "ouro"
            self.figures.add(figure)
            found.append(figure)
            size = f"{figure['N']:,}: " if work.sizes else ""
            progress.saw(f"{size}{plot.readable(figure['min'])}")

        whole = programs.pinned([*command, *self.arguments(work, who, seconds)], self.options.cpus)
        error, _ = programs.run(whole, 15 + 3 * seconds, on_line)
        return error or (None if found else "measured nothing")

    def arguments(self, work, who, seconds):
        if isinstance(work, ForkJoin):
            return ["--n", str(work.sizes[0]), "--runs", "5"]
        arguments = ["--works", work.limit[1] if who == "limit" else work.name, "--budget", str(seconds)]
        if work.sizes:
            arguments += ["--sizes", ",".join(str(n) for n in work.sizes)]
        if self.options.quick:
            arguments += ["--runs", "5", "--sample-ms", "10"]
        return arguments

    # Telling.

    def columns(self):
        """(key, title) of every column that has a figure."""
        wanted = [("limit", "limit"), ("ouro", "ouro"), *((peer.key, peer.title) for peer in self.peers)]
        measured = {peer for peer, _, _ in self.figures.best}
        return [column for column in wanted if column[0] in measured]

    def rows(self):
        return [(work, size) for work in self.works for size in (work.sizes or (None,))]

    def table(self):
        columns = self.columns()
        others = [column for column in columns if column[0] != "ouro"]
        lines = ["", "ns for each, the least of all runs; sleeping is processor time, below it ms for all on the wall"]
        lines.append(row("", None, [title for _, title in columns]))
        for work, size in self.rows():
            figures = [self.figures.get(key, work.name, size) for key, _ in columns]
            lines.append(row(work.title, size, [number(figure["min"]) if figure else "–" for figure in figures]))
            if work.name == "gather_sleep":
                walls = [f"{figure['wall_ms']:,.1f}" if figure else "–" for figure in figures]
                lines.append(row("  ms on the wall", size, walls))
        lines += ["", "how many times ouro's time; for the limit: how many times the limit ouro takes"]
        lines.append(row("", None, [title for _, title in others]))
        for work, size in self.rows():
            ours = self.figures.least("ouro", work.name, size)
            cells = []
            for key, _ in others:
                value = self.figures.least(key, work.name, size)
                ratio = None if not ours or not value else ours / value if key == "limit" else value / ours
                cells.append(f"{ratio:,.2f}" if ratio and ratio < 10 else f"{ratio:,.0f}" if ratio else "–")
            lines.append(row(work.title, size, cells))
        return "\n".join(lines)

    def remarks(self):
        lines = []
        missing = {peer.packages: peer.title for peer in reversed(self.all_peers) if not peer.version}
        for packages, title in reversed(missing.items()):
            lines.append(f"missing: {title} (apt-get install {packages})")
        if self.skipped:
            names = sorted({figure["peer"] for figure in self.skipped})
            lines.append(f"–: has no such work, or would not have ended within the peer's time ({', '.join(names)})")
        lines.append("Fork and join: every call of the recursion is a task, on two workers that are pinned.")
        lines.append("Two threads (wake, run_in_executor): "
                     + (f"kept to processors {self.options.cpus}." if self.options.cpus else
                        "not pinned; on which processor the second one lands moves the figures by up to 40 times."))
        return lines

    def write(self):
        target = self.folder / "results.json"
        cache = (self.folder / "CMakeCache.txt").read_text(encoding="utf-8")
        compiler = re.search(r"^CMAKE_CXX_COMPILER:\w+=(.*)$", cache, re.M)[1]
        result = {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "commit": peers.said_by("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
            "machine": machine(),
            "compiler": peers.said_by(compiler, "--version"),
            "flags": "Release: " + re.search(r"^CMAKE_CXX_FLAGS_RELEASE:\w+=(.*)$", cache, re.M)[1],
            "versions": {peer.key: peer.version for peer in self.peers},
            "missing": {peer.key: peer.packages for peer in self.all_peers if not peer.version},
            "pinning": f"every program to processors {self.options.cpus}" if self.options.cpus else "none",
            "quick": self.options.quick,
            "notes": self.notes,
            "skipped": self.skipped,
            "figures": self.figures.listed(),
        }
        target.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        panels = []
        titles = {work.name: work for work in self.works}
        for name, size in PANELS:
            work = titles[name]
            size = min(size, max(work.sizes)) if size else None
            bars = [(title, self.figures.least(key, name, size)) for key, title in self.columns()
                    if self.figures.get(key, name)]
            panels.append((f"{work.title}, {size:,}" if size else work.title, bars))
        told = result["machine"]
        subtitle = (f"{told['cpus']} × {told['cpu']}, Linux {told['kernel']}, {result['compiler']}, "
                    f"{result['date'][:10]}; pinning: {result['pinning']}; sleeping: processor time")
        panels = [entry for index, entry in enumerate(panels) if entry[1] and entry not in panels[:index]]
        plot.write(self.folder / "results.svg", panels, subtitle)

    def run(self):
        self.build()
        self.measure()
        if not self.figures.get("ouro", "gather_imm"):
            sys.exit("quickstart: ouro measured nothing")
        self.write()
        print(self.table(), "", *self.remarks(), *self.notes, sep="\n")
        print(f"written: {self.folder / 'results.json'} and {self.folder / 'results.svg'}")
        if self.broken:
            print(f"quickstart: ouro failed in {', '.join(self.broken)}", file=sys.stderr)
        return 1 if self.broken else 0


def number(value):
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def row(title, size, cells):
    return f"{title:25}{f'{size:,}' if size else '':>9}" + "".join(f"{cell:>9}" for cell in cells)


def machine():
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"^model name\s*:\s*(.*)$", cpuinfo, re.M)
    memory = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(encoding="utf-8"), re.M)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "virtual": " hypervisor" in cpuinfo,
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else None,
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
        "load_average": os.getloadavg(),
    }


def parse():
    parser = argparse.ArgumentParser(prog="tools/quickstart", description=__doc__, add_help=False)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peers")
    parser.add_argument("--cpus")
    parser.add_argument("--time", type=float, default=205)
    parser.add_argument("--jobs")
    return parser.parse_args()


if __name__ == "__main__":
    # An end from outside ends what runs, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(Quickstart(parse()).run())
    except KeyboardInterrupt:
        sys.exit(130)
