"""The configuration file: where it is looked for, and `beluna-gateway init`, which writes a first one."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from shlex import quote

FILE_NAME = "beluna.jsonc"
VARIABLE = "BELUNA_GATEWAY_CONFIG"
SYSTEM_FOLDER = Path("/etc/beluna-gateway")

_PACKAGE = Path(__file__).parent.parent
UNIT_PATH = "/opt/beluna-gateway/bin"
"""Where the shipped service looks for its programs; `init` puts the place of this installation there."""
_HIDDEN = ("/home/", "/root/", "/run/user/")
"""What the service's ProtectHome= hides."""


# --- looking for it ------------------------------------------------------------------------------------------


def config_places(environment: Mapping[str, str]) -> list[Path]:
    """Where the configuration is looked for when no `--config` names it; the first that is there is taken."""
    if named := environment.get(VARIABLE):
        return [Path(named)]
    # XDG Base Directory Specification: a relative path is to be ignored.
    of_user = Path(environment.get("XDG_CONFIG_HOME", ""))
    if not of_user.is_absolute():
        of_user = Path(environment.get("HOME", "")) / ".config"
    places = [Path(FILE_NAME), of_user / SYSTEM_FOLDER.name / FILE_NAME, SYSTEM_FOLDER / FILE_NAME]
    return [place for place in places if place.is_absolute() or place == Path(FILE_NAME)]


def find_config(environment: Mapping[str, str]) -> Path:
    """The first of the places that has a file; the first place where none has."""
    places = config_places(environment)
    for place in places:
        with suppress(OSError):
            if place.exists():
                return place
    return places[0]


# --- writing a first one -------------------------------------------------------------------------------------


class CannotWrite(Exception):
    """Nothing was written (exit status 73); the message says why."""


def write_starter(config: Path, *, systemd: bool) -> list[Path]:
    """Writes the commented configuration that ships with the package, and beside it its schema, for editors.

    Args:
        config: Its path.
        systemd: Writes the configuration for a service of the system, and the units, beside it.

    Returns:
        The files.

    Raises:
        CannotWrite: One of the files is there already, or the folder cannot be written.
    """
    texts = {config: shipped("systemd/beluna.jsonc" if systemd else FILE_NAME)}
    texts[config.with_name("beluna.schema.json")] = _schema()
    if systemd:
        for name in ("beluna-gateway.service", "beluna-gateway.socket"):
            texts[config.with_name(name)] = shipped(f"systemd/{name}").replace(UNIT_PATH, _unit_path())
    there = [str(path) for path in texts if path.exists() or path.is_symlink()]
    if there:
        raise CannotWrite(f"nothing was written, for there is already {', '.join(there)}")
    made: list[Path] = []
    try:
        config.parent.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            with path.open("x", encoding="utf-8") as file:
                made.append(path)
                file.write(text)
    except OSError as error:
        for path in made:  # half of a file, on a full disk, would be in the way of the next attempt
            path.unlink(missing_ok=True)
        raise CannotWrite(f"cannot write to {config.parent}: {error.strerror}") from error
    return list(texts)


def shipped(name: str) -> str:
    """A file that comes with the package: from the wheel, or from the checkout that this is run from."""
    in_wheel = _PACKAGE / "shipped" / name
    return (in_wheel if in_wheel.exists() else _PACKAGE.parent / name).read_text("utf-8")


def next_steps(files: Iterable[Path], *, systemd: bool) -> list[str]:
    """What to do with the written files, as commands of a shell."""
    config, *others = (quote(str(file)) for file in files)
    if not systemd:
        named = "" if config == FILE_NAME else f" --config {config}"
        return [f"beluna-gateway check --offline{named}", f"beluna-gateway serve{named}"]
    schema, *units = others
    return [
        "sudo groupadd --system --force beluna",
        f"sudo install -D -m 0644 {config} {schema} -t {SYSTEM_FOLDER}",
        f"sudo install -D -m 0644 {' '.join(units)} -t /etc/systemd/system",
        "sudo systemctl daemon-reload",
        "sudo systemctl enable --now beluna-gateway.socket",
    ]


def hidden_from_service() -> Path | None:
    """This installation's folder of programs, where the service of the shipped unit could not see it."""
    programs = _programs()
    return programs if f"{programs}/".startswith(_HIDDEN) else None


def _programs() -> Path:
    # Not resolved: in a venv the interpreter is a link, and its neighbours are the venv's.
    return Path(sys.executable).absolute().parent


def _unit_path() -> str:
    """The folder of programs for the unit: the usual one where that is a link to this installation, which an upgrade
    may exchange.
    """
    with suppress(OSError):
        if _programs().samefile(UNIT_PATH):
            return UNIT_PATH
    return str(_programs())


def _schema() -> str:
    import json

    from ..config.settings import json_schema

    return json.dumps(json_schema(), indent=2) + "\n"
