"""Create .venv from requirements.lock when it is missing or out of date; with uv where it is installed, else with pip.

Runs on the machine's own Python with nothing installed, so it sticks to the standard library and to syntax that older
versions can read: they get a message instead of a syntax error.
"""

import filecmp
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST = (3, 11)
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
LOCK = os.path.join(ROOT, "requirements.lock")
INSTALLED_LOCK = os.path.join(VENV, "requirements.lock")

# Run by the environment's own Python: exit code 0 when every requirement of the lock is met exactly.
LOCK_IS_MET = """
import importlib.metadata, re, sys
from packaging.requirements import Requirement
text = open(sys.argv[1], encoding="utf-8").read()
for line in re.findall(r"^[A-Za-z0-9].*==.*$", text, re.MULTILINE):
    requirement = Requirement(line.rstrip("\\\\ "))
    if requirement.marker is None or requirement.marker.evaluate():
        assert importlib.metadata.version(requirement.name) in requirement.specifier, line
"""
# Exit code 0 when this clone is what `import minirestore` finds and its command is there.
CLONE_IS_INSTALLED = """
import importlib.metadata, os, sys
import minirestore
assert os.path.dirname(os.path.dirname(os.path.abspath(minirestore.__file__))) == sys.argv[1]
assert importlib.metadata.version("minirestore") == minirestore.__version__
"""


def stop(message):
    sys.exit("environment: " + message)


def succeeds(code, *arguments):
    """Whether the environment's Python runs ``code`` without an error, away from the clone."""
    if not os.path.exists(VENV_PYTHON):
        return False
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [VENV_PYTHON, "-I", "-c", code, *arguments]
    return subprocess.run(command, cwd=VENV, env=environment, stderr=subprocess.DEVNULL).returncode == 0


def run(*command):
    print("+ " + " ".join(os.path.relpath(part, ROOT) if os.path.isabs(part) else part for part in command), flush=True)
    code = subprocess.run(command, cwd=ROOT).returncode
    if code:
        stop(f"the command above failed with exit code {code}")


def suitable_python():
    """This Python when it is new enough, else the newest one on the PATH."""
    if sys.version_info >= OLDEST:
        return sys.executable
    found = ".".join(map(str, sys.version_info[:2]))
    for minor in range(19, OLDEST[1] - 1, -1):
        newer = shutil.which(f"python3.{minor}")
        if newer:
            return newer
    stop(f"Python 3.11 or newer is needed, this is {found}; try make PYTHON=/path/to/python3")


def create():
    uv = shutil.which("uv")
    if uv:
        run(uv, "venv", "--clear", "--python", suitable_python(), VENV)
        # uv leaves compiling to the first import, as pip does not; where that may not write, every import would do it
        run(uv, "pip", "sync", "--python", VENV_PYTHON, "--compile-bytecode", "--require-hashes", LOCK)
    else:
        run(suitable_python(), "-m", "venv", "--clear", VENV)
        run(VENV_PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--require-hashes", "-r", LOCK)


def install_clone():
    """Install this clone, editable, from what is already there: the build tools are in the lock."""
    uv = shutil.which("uv")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--editable", ROOT]
    if uv:
        run(uv, "pip", "install", "--python", VENV_PYTHON, *options)
        return
    if not succeeds("import pip"):
        run(VENV_PYTHON, "-m", "ensurepip")
    run(VENV_PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *options)


def main():
    recorded = os.path.exists(INSTALLED_LOCK) and filecmp.cmp(LOCK, INSTALLED_LOCK, shallow=False)
    if not (recorded and os.path.exists(VENV_PYTHON)):
        if not succeeds(LOCK_IS_MET, LOCK):
            create()
        shutil.copyfile(LOCK, INSTALLED_LOCK)
    if not succeeds(CLONE_IS_INSTALLED, ROOT):
        install_clone()


if __name__ == "__main__":
    main()
