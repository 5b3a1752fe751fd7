"""First steps: where the configuration is looked for, what `init` writes, and that the wheel has all of it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from beluna_gateway.commands import outcome, starter
from beluna_gateway.config.loading import load_config
from tests.fakes.config import config
from tests.fakes.daemon import clean_environment, write_config

ROOT = Path(__file__).resolve().parents[2]


class Surroundings:
    """A folder and a home for a command that is run in them, and nothing of the tester's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "here"
        self.home = folder / "home"
        self.folder.mkdir()
        self.home.mkdir()
        self.environment = {**clean_environment(), "HOME": str(self.home), "PYTHONPATH": str(ROOT)}

    def run(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """What a command prints and how it ends, within a minute."""
        return subprocess.run(
            [sys.executable, "-m", "beluna_gateway", *map(str, arguments)],
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
def at(tmp_path: Path) -> Surroundings:
    return Surroundings(tmp_path)


# --- where the configuration is looked for ---


def test_the_order_of_the_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The variable, this folder, the user's folder, the system's; the first that is there is taken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(starter, "SYSTEM_FOLDER", tmp_path / "etc" / "beluna-gateway")
    environment = {"HOME": str(tmp_path / "home")}
    places = [
        Path("beluna.jsonc"),
        tmp_path / "home" / ".config" / "beluna-gateway" / "beluna.jsonc",
        tmp_path / "etc" / "beluna-gateway" / "beluna.jsonc",
    ]

    assert starter.config_places(environment) == places
    assert starter.find_config(environment) == places[0]
    for place in reversed(places):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        assert starter.find_config(environment) == place
    assert starter.find_config({**environment, starter.VARIABLE: "/nowhere"}) == Path("/nowhere")
    assert starter.find_config({**environment, starter.VARIABLE: ""}) == places[0]


def test_the_folder_of_the_users_configurations():
    """By the XDG specification, which ignores relative paths. Without a home there is none."""
    own = starter.config_places({"HOME": "/h", "XDG_CONFIG_HOME": "/x"})[1]
    relative = starter.config_places({"HOME": "/h", "XDG_CONFIG_HOME": "x"})[1]

    assert (own, relative) == (Path("/x/beluna-gateway/beluna.jsonc"), Path("/h/.config/beluna-gateway/beluna.jsonc"))
    assert starter.config_places({}) == [Path("beluna.jsonc"), Path("/etc/beluna-gateway/beluna.jsonc")]


def test_paths_belong_to_the_file(at: Surroundings):
    """A socket of the user's configuration is looked for in the user's folder, not in this one."""
    folder = at.home / ".config" / "beluna-gateway"
    folder.mkdir(parents=True)
    write_config(folder, config(socket_path="s"))  # short: the address of a socket has 107 bytes

    told = at.run("status").stderr

    assert f"no daemon answers at {folder / 's'}" in told


def test_where_none_is_found_it_is_said_where_it_was_looked_for(at: Surroundings):
    """Status 66, every place, and how to write one; a file that was named is only named back."""
    nowhere = at.run("serve")
    by_variable = at.run("serve", BELUNA_GATEWAY_CONFIG="nowhere.jsonc")
    by_option = at.run("serve", "--config", "nowhere.jsonc")

    assert {nowhere.returncode, by_variable.returncode, by_option.returncode} == {66}
    for place in (
        " beluna.jsonc,",
        f"{at.home}/.config/beluna-gateway/beluna.jsonc",
        "/etc/beluna-gateway/beluna.jsonc",
    ):
        assert place in nowhere.stderr
    assert "`beluna-gateway init` writes one" in nowhere.stderr
    assert by_variable.stderr.endswith(
        "cannot read nowhere.jsonc: No such file or directory ($BELUNA_GATEWAY_CONFIG)\n"
    )
    assert by_option.stderr == "beluna-gateway: cannot read nowhere.jsonc: No such file or directory\n"


# --- init ---


def test_init_writes_the_shipped_configuration(at: Surroundings):
    """With its comments and its schema, and it is a configuration as it stands."""
    done = at.run("init")

    assert (done.returncode, done.stderr) == (0, "")
    assert (at.folder / "beluna.jsonc").read_text() == (ROOT / "beluna.jsonc").read_text()
    assert json.loads((at.folder / "beluna.schema.json").read_text())["title"] == "beluna-gateway"
    load_config(at.folder / "beluna.jsonc")
    assert sorted(path.name for path in at.folder.iterdir()) == ["beluna.jsonc", "beluna.schema.json"]


@pytest.mark.parametrize("there", ["beluna.jsonc", "beluna.schema.json", "beluna-gateway.socket"])
def test_init_overwrites_nothing(at: Surroundings, there: str):
    """Where one file is there nothing is written: status 73, and the file is named."""
    (at.folder / there).write_text("mine")

    done = at.run("init", "--systemd")

    assert done.returncode == outcome.CANNOT_CREATE
    assert there in done.stderr
    assert {path.name: path.read_text() for path in at.folder.iterdir()} == {there: "mine"}


@pytest.mark.parametrize("how", ["folder", "option", "variable"])
def test_init_elsewhere(at: Surroundings, how: str):
    """Into a folder, or to the file that `--config` or the variable names; folders are made."""
    there = at.home / "new" / ("beluna.jsonc" if how == "folder" else "other.jsonc")
    match how:
        case "folder":
            done = at.run("init", there.parent)
        case "option":
            done = at.run("init", "--config", there)
        case _:
            done = at.run("init", BELUNA_GATEWAY_CONFIG=str(there))

    assert done.returncode == 0, done.stderr
    assert there.read_text() == (ROOT / "beluna.jsonc").read_text()
    assert list(at.folder.iterdir()) == []
    assert at.run("init", "x", "--config", "y").returncode == outcome.USAGE


def test_init_where_nothing_can_be_written(at: Surroundings):
    """Status 73, and why."""
    (at.folder / "file").touch()

    done = at.run("init", "file/folder")

    assert (done.returncode, done.stdout) == (outcome.CANNOT_CREATE, "")
    assert "Traceback" not in done.stderr
    assert "file/folder" in done.stderr


def test_init_on_a_full_disk(at: Surroundings):
    """No half of a file is left, which would be in the way of the next attempt."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # the configuration fits, its schema does not
    try:
        with pytest.raises(starter.CannotWrite, match="cannot write to"):
            starter.write_starter(at.folder / "beluna.jsonc", systemd=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert list(at.folder.iterdir()) == []
    assert len(starter.write_starter(at.folder / "beluna.jsonc", systemd=False)) == 2


def test_init_for_systemd(at: Surroundings):
    """The configuration of the service and the units, in which the programs of this installation are found."""
    done = at.run("init", "--systemd", "units")

    assert done.returncode == 0
    written = {path.name: path.read_text() for path in (at.folder / "units").iterdir()}
    assert written.pop("beluna.schema.json")
    assert written.keys() == {"beluna.jsonc", "beluna-gateway.service", "beluna-gateway.socket"}
    for name, text in written.items():
        shipped = (ROOT / "systemd" / name).read_text()
        assert text == shipped.replace("/opt/beluna-gateway/bin", str(Path(sys.executable).parent))
    assert f"PATH={Path(sys.executable).parent}:" in written["beluna-gateway.service"]


def test_an_installation_that_the_service_cannot_see(monkeypatch: pytest.MonkeyPatch):
    """The unit hides the homes, so an installation in one of them is told."""
    for executable, hidden in (("/home/me/venv/bin/python", True), ("/opt/beluna-gateway/bin/python", False)):
        monkeypatch.setattr(sys, "executable", executable)
        assert (starter.hidden_from_service() is not None) == hidden


# --- the wheel ---


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, as an installer unpacks it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_has_what_init_writes(unpacked: Path, at: Surroundings):
    """Without a clone the same files are written as with one."""
    for arguments in (["init"], ["init", "--systemd", "units"]):
        done = at.run(*arguments, PYTHONPATH=str(unpacked))
        assert done.returncode == 0, done.stderr

    assert (at.folder / "beluna.jsonc").read_text() == (ROOT / "beluna.jsonc").read_text()
    assert (at.folder / "units" / "beluna.jsonc").read_text() == (ROOT / "systemd" / "beluna.jsonc").read_text()


def test_the_wheel_is_whole(unpacked: Path):
    """Every module and every file beside the modules is in it, and nothing of the tests."""
    package = unpacked / "beluna_gateway"
    here = {
        path.relative_to(ROOT / "beluna_gateway") for path in (ROOT / "beluna_gateway").rglob("*") if path.is_file()
    }
    there = {path.relative_to(package) for path in package.rglob("*") if path.is_file()}

    assert {path for path in here if "__pycache__" not in path.parts} <= there
    assert {str(path) for path in there - here} == {
        "beluna.schema.json",
        *(
            f"shipped/{name}"
            for name in ("beluna.jsonc", *(f"systemd/{path.name}" for path in (ROOT / "systemd").iterdir()))
        ),
    }
    assert {path.name for path in unpacked.iterdir() if not path.name.endswith(".dist-info")} == {"beluna_gateway"}


# --- the command line as a whole ---


def test_the_version_is_printed_without_loading_the_gateway(at: Surroundings):
    """`--version` imports neither the models nor the log nor the event loop: it takes as long as Python itself."""
    command = [sys.executable, "-X", "importtime", "-m", "beluna_gateway", "--version"]
    done = subprocess.run(command, env=at.environment, capture_output=True, text=True, check=True)

    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.stdout.startswith("beluna-gateway ")
    assert "beluna_gateway.cli" in loaded
    assert loaded.isdisjoint({"pydantic", "structlog", "asyncio", "uvloop", "aiohttp", "pyjson5"})


def test_a_start_loads_only_what_a_daemon_needs(at: Surroundings):
    """Nothing that only suggests keys, judges output or describes frames. No adapter before the socket is there, which
    here cannot be made."""
    write_config(at.folder, config() | {"socket_path": "beluna.jsonc/s"})
    command = [sys.executable, "-X", "importtime", "-m", "beluna_gateway"]
    done = subprocess.run(command, cwd=at.folder, env=at.environment, capture_output=True, text=True, check=False)

    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 73, done.stderr
    assert {"pydantic", "uvloop", "beluna_gateway.daemon.server"} <= loaded
    assert not loaded & {"difflib", "jsonschema", "aiohttp", "yarl"}
    assert not loaded & {"beluna_gateway.wire.server_frames", "beluna_gateway.adapters.http.adapter"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(at: Surroundings, shell: str):
    """A script for the shell, which the shell can read, and which knows each command."""
    done = at.run("completion", shell)

    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("serve", "ask", "check", "status", "init", "--max-output-tokens"))
    if (program := shutil.which(shell)) is not None:
        subprocess.run([program, "-n"], input=done.stdout, text=True, check=True, timeout=10)


def test_completion_in_bash(at: Surroundings):
    """A TAB after `beluna-gateway ch` gives `check`; after `--config` it gives files."""
    (at.folder / "some.jsonc").touch()
    script = at.run("completion", "bash").stdout
    tried = """
    COMP_WORDS=(beluna-gateway ch); COMP_CWORD=1; _shtab_beluna_gateway; echo "${COMPREPLY[@]}"
    COMP_WORDS=(beluna-gateway check --config so); COMP_CWORD=3; _shtab_beluna_gateway; echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(["bash", "-c", script + tried], cwd=at.folder, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == ["check", "some.jsonc"]


def test_completion_without_its_extra(at: Surroundings):
    """Status 69, and what is missing."""
    (at.folder / "shtab.py").write_text("raise ImportError('No module named shtab')")

    done = at.run("completion", "bash", PYTHONPATH=f"{ROOT}{os.pathsep}{at.folder}")

    assert (done.returncode, done.stdout) == (69, "")
    assert "shtab" in done.stderr


def test_the_extra_for_completion_is_there():
    """What the message names exists."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]

    assert any(needed.startswith("shtab") for needed in extras["completion"])
