#!/usr/bin/env python3
"""check_blocks.py [--root DIR]: what the documents show is what the tests compile and run.

In README.md, ARCHITECTURE.md and HACKING.md
  ```cpp, ```cmake     a block of whole lines that follow each other in a file under tests/docs/ or tests/consumer/
  ```text NAME         exactly the file NAME of tests/docs/, which a test compares with what a program prints
  ```make, ```python   not allowed: nothing compiles them
In the table of README.md whose second column is headed "ouro", every name in `code` is used in tests/docs/names.cpp,
unless its row says "planned". The floors of ARCHITECTURE.md are those of tools/layers.py, and the files that it names
exist. README.md has at most 300 lines. Prints each finding, ends with 1 if there is one.
"""

import argparse
import re
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "tools"))
import layers  # noqa: E402

DOCUMENTS = ["README.md", "ARCHITECTURE.md", "HACKING.md"]
LINES = {"README.md": 300}
COMPILED = {"cpp": (".cpp", ".hpp"), "cmake": ("CMakeLists.txt", ".cmake")}
PLAIN = {"", "text", "console", "sh"}
FOLDERS = ["tests/docs", "tests/consumer"]
# Where a file that ARCHITECTURE.md names may lie.
PLACES = ["", "runtime", "runtime/include/ouro/runtime", "io"]
# Words of the table's code that name nothing of ouro's.
NOT_OURS = re.compile(r"\bstd::\w+|\b(?:co_await|co_return|int|nullptr|true|false)\b|\b\d\w*|\"[^\"]*\"")


def blocks(text: str) -> list[tuple[int, str, str, list[str]]]:
    """(line of the fence, language, name, lines) of each fenced block."""
    found, fence = [], None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip().startswith("```"):
            if fence is None:
                language, _, name = line.strip()[3:].strip().partition(" ")
                fence = (number, language, name.strip(), [])
            else:
                found.append(fence)
                fence = None
        elif fence is not None:
            fence[3].append(line)
    if fence is not None:
        raise ValueError(f"the block that begins in line {fence[0]} has no end")
    return found


def follows(block: list[str], lines: list[str]) -> bool:
    """True if the lines of the block stand in `lines`, one after the other; the block may be indented as a whole."""
    def bare(some: list[str]) -> list[str]:
        indents = [len(line) - len(line.lstrip()) for line in some if line.strip()]
        return [line[min(indents, default=0):].rstrip() for line in some]

    wanted = bare(block)
    return any(bare(lines[at:at + len(block)]) == wanted for at in range(len(lines) - len(block) + 1))


class Check:
    def __init__(self, root: Path):
        self.root, self.findings = root, []
        files = sorted(path for folder in FOLDERS for path in (root / folder).rglob("*") if path.is_file())
        self.sources = {language: [path for path in files if path.name.endswith(ends)]
                        for language, ends in COMPILED.items()}

    def report(self, document: str, line: int, message: str) -> None:
        self.findings.append(f"{document}:{line}: {message}")

    def check_block(self, document: str, line: int, language: str, name: str, block: list[str]) -> None:
        if language in COMPILED:
            if not block or not any(follows(block, path.read_text(encoding="utf-8").splitlines())
                                    for path in self.sources[language]):
                self.report(document, line, f"this {language} block is in no file under {' or '.join(FOLDERS)}")
        elif language not in PLAIN:
            self.report(document, line, f"a {language} block: nothing compiles it")
        elif name:
            expected = self.root / "tests" / "docs" / name
            if not expected.is_file():
                self.report(document, line, f"there is no tests/docs/{name}")
            elif expected.read_text(encoding="utf-8").splitlines() != block:
                self.report(document, line, f"this block differs from tests/docs/{name}")

    def check_table(self, document: str, text: str) -> None:
        used = set(re.findall(r"\w+", (self.root / "tests/docs/names.cpp").read_text(encoding="utf-8")))
        inside, names = False, 0
        for number, line in enumerate(text.splitlines(), 1):
            cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
            if line.startswith("|") and len(cells) > 1 and cells[1] == "ouro":
                inside = True
            elif not line.startswith("|"):
                inside = False
            elif inside and len(cells) > 1 and "planned" not in cells[1]:
                for code in re.findall(r"`([^`]+)`", cells[1]):
                    for name in re.findall(r"[A-Za-z_]\w{2,}", NOT_OURS.sub(" ", code)):
                        names += 1
                        if name not in used:
                            self.report(document, number, f"`{name}` is not used in tests/docs/names.cpp")
        if names == 0:
            self.report(document, 1, "the table of names is missing: its second column is headed 'ouro'")

    def check_floors(self, document: str, text: str) -> None:
        told = {}
        for number, line in enumerate(text.splitlines(), 1):
            cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
            if re.fullmatch(r"[FI]\d", cells[0]) and len(cells) > 1:
                told[cells[0]] = number, set(re.findall(r"`([^`]+)`", cells[1]))
            for path in re.findall(r"`([\w/]+/\w+\.(?:[ch]pp|py))`", line):
                if not any((self.root / place / path).exists() for place in PLACES):
                    self.report(document, number, f"there is no {path}")
        for floor, components in layers.RUNTIME + layers.IO:
            names = {Path(name).name for name in components}
            number, have = told.get(floor, (1, set()))
            if have != names:
                self.report(document, number, f"{floor} of tools/layers.py has {' '.join(sorted(names - have)) or '-'} "
                            f"besides, and lacks {' '.join(sorted(have - names)) or '-'}")

    def check(self) -> list[str]:
        for document in DOCUMENTS:
            text = (self.root / document).read_text(encoding="utf-8")
            try:
                for block in blocks(text):
                    self.check_block(document, *block)
            except ValueError as error:
                self.report(document, 1, str(error))
            if document == "README.md":
                self.check_table(document, text)
            if document == "ARCHITECTURE.md":
                self.check_floors(document, text)
            lines = text.splitlines()
            if len(lines) > LINES.get(document, len(lines)):
                self.report(document, len(lines), f"has {len(lines)} lines; at most {LINES[document]}")
        return self.findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent.parent)
    findings = Check(parser.parse_args().root).check()
    print("\n".join(findings) if findings else "documents: nothing found")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
