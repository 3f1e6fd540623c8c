"""Packaging, as pyproject.toml has it; an installed package also remembers the checkout whose build it came from."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithCheckout(build_py):
    """Adds convjit/_checkout.py, one more place where convjit/_library.py looks for libconvjit."""

    def run(self):
        super().run()
        checkout = Path(__file__).resolve().parents[2]
        if self.editable_mode or not (checkout / "runtime" / "convjit.h").exists():
            return
        text = f'"""Where the library was built that this package was installed from."""\n\nBUILD = {str(checkout / "build")!r}\n'
        (Path(self.build_lib) / "convjit" / "_checkout.py").write_text(text)


setup(cmdclass={"build_py": BuildWithCheckout})
