"""What the tests in Python share: counting, and where the package and the build are."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("BUILD") or ROOT / "build").resolve()


def use_checkout():
    """Takes the package and the library from this checkout, whatever is installed."""
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(ROOT / "runtime" / "python"))
    os.environ.setdefault("CONVJIT_LIBRARY", str(BUILD / "libconvjit.so.0"))


class Checks:
    """Counts; prints what failed."""

    def __init__(self, name):
        self.name, self.passed, self.failed, self.skipped = name, 0, 0, 0

    def that(self, holds, what):
        self.passed, self.failed = self.passed + bool(holds), self.failed + (not holds)
        if not holds:
            print(f"FAILED: {what}", flush=True)

    def equal(self, found, expected, what):
        self.that(found == expected, f"{what}: {found!r}, expected {expected!r}")

    def raises(self, kind, part, what, function):
        try:
            function()
        except kind as error:
            self.that(part in str(error), f"{what}: '{error}' lacks '{part}'")
        except Exception as error:  # any other error fails this check, not the program
            self.that(False, f"{what}: {type(error).__name__} instead of {kind.__name__}: {error}")
        else:
            self.that(False, f"{what}: no error")

    def run(self, functions, *arguments):
        """Runs test functions one after another; one that ends with an error is a failure."""
        for function in functions:
            try:
                function(self, *arguments)
            except Exception as error:
                import traceback

                traceback.print_exc(file=sys.stdout)
                self.that(False, f"{function.__name__}: {type(error).__name__}: {error}")

    def close(self):
        """Prints the closing line, and returns the exit status."""
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        print(f"{self.name}: {self.passed} passed, {self.failed} failed{skipped}")
        return 1 if self.failed else 0
