#!/usr/bin/env python3
"""tools/layers_test.py: seeds one violation of each kind in a folder of its own and sees layers.py report it."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

LAYERS = Path(__file__).resolve().parent / "layers.py"
PUBLIC = "runtime/include/ouro/runtime/"
SLEEP = "std::this_thread::sleep" + "_for(one);"

# A tree with nothing to find: {path: content}. CMakeLists.txt is written from what lies there.
CLEAN = {
    PUBLIC + "config.hpp": "#pragma once\n",
    PUBLIC + "clock.hpp": "#pragma once\n#include <ouro/runtime/config.hpp>\n",
    PUBLIC + "tasks.hpp": "#pragma once\n#include <ouro/runtime/clock.hpp>\n",
    "runtime/src/timer_wheel.hpp": "#pragma once\n#include <ouro/runtime/clock.hpp>\n",
    "runtime/src/timer_wheel.cpp": '#include "timer_wheel.hpp"\n// fork() and "std::condition_variable" may be named\n',
    "io/include/ouro/io/errors.hpp": "#pragma once\n#include <ouro/runtime/config.hpp>\n",
    "io/src/ring.cpp": "#include <liburing.h>\nint big = 1'000'000; char c = '{';\n",
    "tests/runtime/tasks_test.cpp": f"void f() {{ {SLEEP} }}  // blocking work\n",
    "tests/acceptance/01_wide.cpp": "//" + "=" * 150 + "\n",
}


def findings(changes: dict[str, str], unlisted: str = "") -> str:
    files = CLEAN | changes
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(content)
        listed = [path for path in files if path != unlisted]
        tests = [path[6:-9] for path in listed if path.startswith(("tests/runtime/", "tests/io/"))]
        programs = [Path(path).stem for path in listed if path.startswith("tests/acceptance/")]
        (root / "CMakeLists.txt").write_text("\n".join(p for p in listed if p.startswith(("runtime/", "io/"))))
        (root / "tests/CMakeLists.txt").write_text("\n".join(f"ouro_add_test({name})" for name in tests))
        (root / "tests/acceptance/CMakeLists.txt").write_text("\n".join(f"ouro_add_acceptance({p})" for p in programs))
        run = subprocess.run([sys.executable, LAYERS, "--root", root], capture_output=True, text=True, check=False)
        assert run.returncode == (0 if "nothing found" in run.stdout else 1), run
        return run.stdout


class LayersTest(unittest.TestCase):
    def expect(self, message: str, changes: dict[str, str], unlisted: str = "") -> None:
        found = findings(changes, unlisted)
        self.assertIn(message, found)
        self.assertEqual(1, found.count("\n"), found)

    def test_a_clean_tree(self):
        self.assertIn("nothing found", findings({}))

    def test_a_higher_floor(self):
        self.expect("clock.hpp:1: runtime/clock (F0) includes runtime/sleep (F5), which is not below it",
                    {PUBLIC + "clock.hpp": "#include <ouro/runtime/sleep.hpp>\n"})

    def test_a_source_counts_with_its_header(self):
        self.expect("coroutine.cpp:1: runtime/coroutine (F2) includes runtime/timer_wheel (F3)",
                    {"runtime/src/coroutine.cpp": '#include "timer_wheel.hpp"\n'})

    def test_a_source_with_a_place_of_its_own(self):
        self.assertIn("nothing found", findings({"runtime/src/tasks.cpp": '#include "timer_wheel.hpp"\n'}))
        self.expect("runtime/tasks.cpp (F4) includes runtime/sleep (F5)",
                    {"runtime/src/tasks.cpp": "#include <ouro/runtime/sleep.hpp>\n"})

    def test_the_order_within_a_floor(self):
        self.expect("futures (F2) includes runtime/tasks (F2)",
                    {PUBLIC + "futures.hpp": "#include <ouro/runtime/tasks.hpp>\n"})

    def test_runtime_knows_no_io(self):
        self.expect("tasks (F2) includes io/errors (I0)", {PUBLIC + "tasks.hpp": "#include <ouro/io/errors.hpp>\n"})

    def test_a_private_header_in_a_public_one(self):
        self.expect("a public header includes the private timer_wheel.hpp",
                    {PUBLIC + "gather.hpp": '#include "timer_wheel.hpp"\n'})

    def test_a_private_header_of_the_other_library(self):
        self.expect("ring.cpp:1: includes timer_wheel.hpp, which is on no floor",
                    {"io/src/ring.cpp": '#include "timer_wheel.hpp"\n'})

    def test_liburing_elsewhere(self):
        self.expect("only io/src/ring", {"io/src/proactor.cpp": "#include <liburing.h>\n"})

    def test_a_file_on_no_floor(self):
        self.expect("stray.cpp: is on no floor", {"runtime/src/stray.cpp": "int x;\n"})

    def test_a_circle(self):
        found = findings({PUBLIC + "config.hpp": "#include <ouro/runtime/clock.hpp>\n"})
        self.assertIn("go round in a circle: runtime/config -> runtime/clock -> runtime/config", found)

    def test_files_that_nothing_lists(self):
        for path, where in ((PUBLIC + "sleep.hpp", "CMakeLists.txt"), ("io/src/fd.hpp", "CMakeLists.txt"),
                            ("tests/io/ring_test.cpp", "tests/CMakeLists.txt"),
                            ("tests/model/inbox_test.cpp", "tests/model/CMakeLists.txt"),
                            ("tests/acceptance/02_x.cpp", "tests/acceptance/CMakeLists.txt")):
            self.expect(f"{path}: is not listed in {where}", {path: "int x;\n"}, unlisted=path)

    def test_sizes(self):
        for path, most in ((PUBLIC + "config.hpp", 450), ("io/src/ring.cpp", 500), ("tests/io/ring_test.cpp", 600)):
            self.assertIn("nothing found", findings({path: "int x;\n" * most}))
            self.expect(f"has {most + 1} lines", {path: "int x;\n" * (most + 1)})

    def test_long_functions(self):
        constructor = "namespace a {\nclass B {\n  explicit B(int x)\n      : x_{x}, y_(x) {"
        for head in (constructor, "namespace {\nTEST(A, B) {\n  if (a) {}\n"):
            body = head + "\n  f([] { return '}'; });  // }" + "\n  g();" * 70
            self.expect("a function of 7", {"io/src/ring.cpp": body + "\n}\n" + "}" * head.count("{\n") + "\n"})
        self.assertIn("nothing found", findings({"io/src/ring.cpp": "namespace a {\n" + "void f() {}\n" * 90 + "}\n"}))

    def test_width(self):
        self.expect("config.hpp:1: is 121 characters wide", {PUBLIC + "config.hpp": "//" + "=" * 119 + "\n"})

    def test_banned_words(self):
        for word in ("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"):
            self.expect(f"says {word}", {PUBLIC + "config.hpp": f"// {word}: later\n"})

    def test_banned_calls(self):
        self.expect("std::condition_variable", {"io/src/ring.cpp": "std::condition_variable wake;\n"})
        self.expect("fork() in the library", {"io/src/ring.cpp": "int f() { return ::fork(); }\n"})
        self.expect("a sleep in a test", {"tests/io/ring_test.cpp": f"void f() {{ {SLEEP} }}\n"})


if __name__ == "__main__":
    unittest.main()
