"""From a bare machine to a running course: the lock, the environments, the commands, the wheel, JupyterLab."""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.request
import zipfile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from minirestore import config

ROOT = config.repository_root()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
EXTRAS = PROJECT["optional-dependencies"]
LOCKED_EXTRAS = ("course", "lpips", "full", "dev", "docs")


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins():
    """Name to requirement lines; a universal lock may pin a name once per platform."""
    found = {}
    for line in re.findall(r"^[A-Za-z0-9].*$", LOCK, re.MULTILINE):
        requirement = Requirement(line.rstrip("\\ "))
        found.setdefault(canonical(requirement.name), []).append(requirement)
    return found


# The lock


def test_the_lock_has_exact_versions_and_hashes_and_no_address():
    assert "://" not in LOCK
    assert "--index" not in LOCK
    assert "--find-links" not in LOCK
    blocks = re.split(r"\n(?=[A-Za-z0-9])", LOCK.strip())
    assert len(blocks) > 100
    for block in blocks:
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[^\s;]+", block)
        assert "--hash=sha256:" in block


@pytest.mark.parametrize(
    "text", [*PROJECT["dependencies"], *(text for extra in LOCKED_EXTRAS for text in EXTRAS[extra])]
)
def test_every_dependency_is_locked_within_its_range(text):
    wanted = Requirement(text)
    pinned = pins()[canonical(wanted.name)]
    for requirement in pinned:
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        assert wanted.specifier.contains(specifier.version, prereleases=True)


def test_torch_and_torchvision_are_locked_together():
    version = {name: str(pins()[name][0].specifier).removeprefix("==") for name in ("torch", "torchvision")}
    required = [Requirement(text) for text in importlib.metadata.requires("torchvision") or []]
    (torch,) = [requirement for requirement in required if requirement.name == "torch"]
    assert importlib.metadata.version("torchvision").split("+")[0] == version["torchvision"]
    assert torch.specifier.contains(version["torch"])


# The other ways to install


def test_the_conda_environment_asks_for_the_project_itself():
    content = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [entry for entry in content["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict)]
    assert content["name"] == PROJECT["name"]
    assert {Requirement(entry).name for entry in conda} == {"python", "pip"}
    (python,) = [Requirement(entry) for entry in conda if entry.startswith("python")]
    assert python.specifier == SpecifierSet(PROJECT["requires-python"])
    (project,) = pip
    extras = re.fullmatch(r"\.\[([a-z,]+)\]", project)[1].split(",")
    assert extras == ["course", "lpips"]
    assert set(extras) <= set(EXTRAS)


def test_the_wheel_brings_checkers_and_data_but_no_answers(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert not [name for name in names if "answers" in name or "test" in name.split("/")[0]]
    assert {"minirestore/shipped_data/README.md", "minirestore/exercises/notebook_03.py"} <= set(names)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from minirestore import config, exercises\n"
        "print(config.repository_root(), config.data_root().name, len(exercises.exercises_of('03')) > 3)"
    )
    command = [sys.executable, "-I", "-c", code, str(tmp_path / "site")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout == "None shipped_data True\n"


# The environment that make creates


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """The installer, pointed at an empty clone; commands are recorded, not run."""
    spec = importlib.util.spec_from_file_location("environment", ROOT / ".ci" / "environment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    venv = tmp_path / ".venv"
    monkeypatch.setattr(module, "ROOT", str(tmp_path))
    monkeypatch.setattr(module, "VENV", str(venv))
    monkeypatch.setattr(module, "VENV_PYTHON", str(venv / "bin" / "python"))
    monkeypatch.setattr(module, "LOCK", str(tmp_path / "requirements.lock"))
    monkeypatch.setattr(module, "INSTALLED_LOCK", str(venv / "requirements.lock"))
    (tmp_path / "requirements.lock").write_text("packaging==1.0 \\\n    --hash=sha256:00\n")
    module.commands = []

    def run(*command):
        module.commands.append(" ".join(command).replace(str(tmp_path), "CLONE"))
        (venv / "bin").mkdir(parents=True, exist_ok=True)
        (venv / "bin" / "python").touch()

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(module, "succeeds", lambda code, *rest: code in module.true)
    module.true = set()
    return module


@pytest.mark.parametrize("uv", [None, "/bin/uv"])
def test_a_bare_clone_gets_the_lock_and_then_itself(environment, monkeypatch, uv):
    monkeypatch.setattr(environment.shutil, "which", lambda name: uv if name == "uv" else None)
    environment.main()
    create, lock, *_, clone = environment.commands
    assert "venv" in create
    assert "--clear" in create
    assert "--require-hashes" in lock
    assert lock.endswith("CLONE/requirements.lock")
    for option in ("--no-deps", "--no-build-isolation", "--no-index", "--editable CLONE"):
        assert option in clone
    assert all(command.startswith("/bin/uv") == (uv is not None) for command in environment.commands)

    environment.commands.clear()
    environment.true = {environment.CLONE_IS_INSTALLED}
    environment.main()
    assert environment.commands == []


def test_a_changed_lock_makes_a_new_environment(environment):
    environment.main()
    environment.true = {environment.CLONE_IS_INSTALLED}
    environment.commands.clear()
    with open(environment.LOCK, "a") as lock:
        lock.write("six==1.0 \\\n    --hash=sha256:00\n")
    environment.main()
    assert "--clear" in environment.commands[0]


def test_an_environment_that_meets_the_lock_is_kept(environment):
    os.makedirs(os.path.dirname(environment.VENV_PYTHON))
    open(environment.VENV_PYTHON, "w").close()
    environment.true = {environment.LOCK_IS_MET, environment.CLONE_IS_INSTALLED}
    environment.main()
    assert environment.commands == []
    assert os.path.exists(environment.INSTALLED_LOCK)


def test_an_interrupted_installation_starts_again(environment, monkeypatch):
    def fail(*command):
        raise SystemExit(1)

    with monkeypatch.context() as patch:
        patch.setattr(environment, "run", fail)
        with pytest.raises(SystemExit):
            environment.main()
    assert not os.path.exists(environment.INSTALLED_LOCK)
    environment.main()
    assert environment.commands


def test_an_old_python_gets_a_message(environment, monkeypatch):
    monkeypatch.setattr(environment.sys, "version_info", (3, 9, 1))
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"Python 3\.11 or newer is needed, this is 3\.9"):
        environment.suitable_python()
    monkeypatch.setattr(environment.shutil, "which", lambda name: f"/bin/{name}" if name == "python3.12" else None)
    assert environment.suitable_python() == "/bin/python3.12"


@pytest.mark.parametrize(("version", "met"), [(importlib.metadata.version("packaging"), True), ("0.1", False)])
def test_the_lock_is_compared_with_what_is_installed(environment, tmp_path, version, met):
    lock = tmp_path / "lock"
    lock.write_text(
        f"packaging=={version} \\\n    --hash=sha256:00\nabsent==1 ; sys_platform == 'plan9' \\\n    --hash=sha256:00\n"
    )
    result = subprocess.run([sys.executable, "-c", environment.LOCK_IS_MET, str(lock)], capture_output=True)
    assert (result.returncode == 0) == met


def test_make_explains_its_commands_and_help_is_the_default():
    result = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    for command in ("make course", "make lab", "make test"):
        assert command in result.stdout


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("course", ".venv/bin/python -m minirestore course run"),
        ("lab", ".venv/bin/jupyter lab notebooks"),
        ("test", ".venv/bin/python -m pytest -n 2 --dist loadfile --nbval --nbval-current-env"),
    ],
)
def test_make_prepares_the_environment_first(target, expected):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTHON"))
    }
    command = ["make", "--dry-run", target]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment).stdout
    assert lines.splitlines() == ["python3 .ci/environment.py", expected]


def test_the_check_of_a_clean_clone_prints_the_closing_line(tmp_path):
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text((ROOT / ".ci" / "run").read_text())
    makefile = tmp_path / "Makefile"
    makefile.write_text("test:\n\t@echo '==== 3 passed in 1s ===='\n\t@echo afterwards\n")
    passing = subprocess.run(["bash", str(tmp_path / ".ci" / "run")], capture_output=True, text=True)
    assert (passing.returncode, passing.stdout.splitlines()[-1]) == (0, "==== 3 passed in 1s ====")
    makefile.write_text("test:\n\t@echo '== 1 failed, 2 passed in 1s =='; exit 1\n")
    assert subprocess.run(["bash", str(tmp_path / ".ci" / "run")], capture_output=True).returncode != 0


# JupyterLab


def wait_for(server, port):
    """Return when something answers on the port; fail when the server ends before."""
    while server.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout=0.2)
    pytest.fail("JupyterLab ended before it answered")


def test_jupyter_lab_opens_a_notebook(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ServerApp.ip=127.0.0.1"]
    options += ["--no-browser", "--allow-root", "--IdentityProvider.token=secret"]
    command = [sys.executable, "-m", "jupyterlab", *options, f"--ServerApp.root_dir={ROOT / 'notebooks'}"]
    private = {"HOME": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path)}
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, **private}, cwd=tmp_path)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(server, port)
        request = urllib.request.Request(f"{address}/api/contents/03_wavelets.ipynb")
        request.add_header("Authorization", "token secret")
        with urllib.request.urlopen(request, timeout=60) as answer:
            notebook = json.load(answer)
        assert notebook["type"] == "notebook"
        assert notebook["content"]["cells"][0]["source"].startswith("# 03 Wavelets")
        with urllib.request.urlopen(f"{address}/lab?token=secret", timeout=60) as answer:
            assert b"JupyterLab" in answer.read()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_the_linter_is_silent(command):
    result = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
