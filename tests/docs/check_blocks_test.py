#!/usr/bin/env python3
"""check_blocks.py finds what it says it finds."""

import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
import check_blocks  # noqa: E402

TABLE = "| asyncio | ouro |\n|---|---|\n| `run` | `run` |\n| locks | planned: `Lock` |\n"


FLOORS = "".join(f"| {floor} | {' '.join(f'`{Path(name).name}`' for name in names)} | |\n"
                 for floor, names in check_blocks.layers.RUNTIME + check_blocks.layers.IO)


class Documents(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        self.write("tests/docs/names.cpp", "int main() {\n  run();\n  return 0;\n}\n")
        self.write("tests/docs/names.expected", "one\ntwo\n")
        self.write("HACKING.md", "")
        self.write("ARCHITECTURE.md", FLOORS)

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def found_in(self, readme):
        self.write("README.md", readme + "\n" + TABLE)
        return "\n".join(check_blocks.Check(self.root).check())

    def test_a_region_of_a_compiled_file_is_right(self):
        self.assertEqual(self.found_in("```cpp\nrun();\nreturn 0;\n```"), "")

    def test_a_block_that_no_file_has_is_found(self):
        self.assertIn("is in no file", self.found_in("```cpp\nwalk();\n```"))

    def test_lines_that_do_not_follow_each_other_are_found(self):
        self.assertIn("is in no file", self.found_in("```cpp\nrun();\n}\n```"))

    def test_an_empty_block_is_found(self):
        self.assertIn("is in no file", self.found_in("```cpp\n```"))

    def test_the_output_of_a_program_is_compared(self):
        self.assertEqual(self.found_in("```text names.expected\none\ntwo\n```"), "")
        self.assertIn("differs", self.found_in("```text names.expected\none\n```"))
        self.assertIn("there is no", self.found_in("```text other.expected\none\n```"))

    def test_a_language_that_nothing_compiles_is_found(self):
        self.assertIn("nothing compiles it", self.found_in("```python\nrun()\n```"))

    def test_a_block_without_an_end_is_found(self):
        self.assertIn("has no end", self.found_in("```cpp\nrun();"))

    def test_a_name_of_the_table_that_nothing_uses_is_found(self):
        self.assertIn("`walk` is not used", self.found_in("| a | ouro |\n|---|---|\n| b | `walk(1)` |\n"))

    def test_a_missing_table_is_found(self):
        self.write("README.md", "nothing\n")
        self.assertIn("table of names is missing", "\n".join(check_blocks.Check(self.root).check()))

    def test_floors_that_differ_and_files_that_are_gone_are_found(self):
        self.write("ARCHITECTURE.md", FLOORS.replace("`clock`", "`watch`") + "See `src/gone.cpp`.\n")
        found = self.found_in("")
        self.assertIn("F0 of tools/layers.py has clock besides, and lacks watch", found)
        self.assertIn("there is no src/gone.cpp", found)

    def test_a_long_readme_is_found(self):
        self.assertIn("at most 300", self.found_in("\n" * 300))


if __name__ == "__main__":
    unittest.main()
