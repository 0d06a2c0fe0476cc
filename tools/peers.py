"""The programs that tools/quickstart runs side by side: what each needs, how it is built, how it is started."""

import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "bench" / "peers"
DEBIAN_CRATES = "/usr/share/cargo/registry"


def said_by(*command):
    """The first line that a command says; None if it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout or done.stderr).strip().split("\n")[0]


class Peer:
    """A program beside ouro: `version` is None where it is missing, `build` a command and its folder, or None."""

    def __init__(self, key, title, packages, version, command, build=None, works=None):
        self.key, self.title, self.packages, self.version = key, title, packages, version
        self.command, self.build = command, build
        self.works = works  # those that it has; None: all of main_job's


def asio(folder):
    header = next((path for path in ("/usr/include/asio/version.hpp", "/usr/local/include/asio/version.hpp")
                   if os.path.exists(path)), None)
    version = None
    if header:
        number = next(line.split()[2] for line in open(header) if line.startswith("#define ASIO_VERSION "))
        version = f"asio {int(number) // 100000}.{int(number) // 100 % 1000}.{int(number) % 100}"
    return Peer("asio", "asio", "libasio-dev", version, [str(folder / "bench" / "peer_asio")])


def go(folder):
    program = folder / "peers" / "go"
    return Peer("go", "Go", "golang-go", said_by("go", "version"), [str(program)],
                build=(["go", "build", "-o", str(program), "."], SOURCES / "go"))


def tokio(folder):
    """Two rows of one program: a task for each coroutine, and join_all, which polls them in one task."""
    crates = glob.glob(DEBIAN_CRATES + "/tokio-1.*") and glob.glob(DEBIAN_CRATES + "/futures-util-*")
    cargo = said_by("cargo", "--version")
    version = f"{Path(glob.glob(DEBIAN_CRATES + '/tokio-1.*')[0]).name}, {cargo}" if crates and cargo else None
    target = folder / "peers" / "tokio"
    command = [str(target / "release" / "main_job_tokio")]
    # Cargo writes beside its manifest; the build is of a copy, so that the source tree stays as it is.
    copy = target / "source"
    build = (["cargo", "build", "--release", "--offline", "--target-dir", str(target)], copy)
    packages = "cargo librust-tokio-dev librust-futures-util-dev"
    return [Peer("tokio", "tokio", packages, version, command, build),
            Peer("tokio_join_all", "join_all", packages, version, command, build, works=())]


def tbb(folder):
    version = said_by("pkg-config", "--modversion", "tbb")
    return Peer("tbb", "oneTBB", "libtbb-dev", version and f"oneTBB {version}",
                [str(folder / "bench" / "forkjoin_fib_tbb")], works=("fib", "skynet"))


def node(_):
    return Peer("node", "Node", "nodejs", said_by("node", "--version"),
                ["node", "--expose-gc", str(SOURCES / "main_job.js")],
                works=("gather_imm", "gather_yield", "gather_sleep", "spawn_join", "yield", "wake"))


def python(key, packages, version):
    return Peer(key, key, packages, version, [sys.executable, str(SOURCES / "main_job.py"), key])


def find(folder):
    """All peers, present or not."""
    uvloop = said_by(sys.executable, "-c", "import uvloop; print('uvloop', uvloop.__version__)")
    return [asio(folder), go(folder), *tokio(folder), node(folder), python("uvloop", "python3-uvloop", uvloop),
            python("asyncio", "python3", "Python " + sys.version.split()[0]), tbb(folder)]


def prepare(peer):
    """What a build needs before its command is run."""
    if peer.key == "tokio":
        shutil.copytree(SOURCES / "tokio", peer.build[1], dirs_exist_ok=True)
