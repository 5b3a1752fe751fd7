"""The command line: which commands there are, and what each of them takes."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from ..version import __version__
from .outcome import USAGE, complain
from .starter import FILE_NAME, VARIABLE

EFFORTS = ("off", "minimal", "low", "medium", "high", "xhigh", "max")
"""The words of `reasoning.effort` in a request."""


class _Parser(argparse.ArgumentParser):
    """Ends with the status of sysexits.h for wrong arguments, where argparse has 2."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        complain(message)
        self.exit(USAGE)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuses unknown arguments here, so that the usage shown with them is the command's own."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown


_CONFIG_HELP = (
    f"default: the first of ${VARIABLE}, ./{FILE_NAME}, {FILE_NAME} in $XDG_CONFIG_HOME/beluna-gateway (~/.config) and "
    "in /etc/beluna-gateway"
)


def command_line(complete_files: Any = None) -> argparse.ArgumentParser:
    """The command line. `complete_files` is what shtab wants to find at options whose values are files."""

    def path_argument(parser: argparse.ArgumentParser, name: str, **options: Any) -> None:
        vars(parser.add_argument(name, type=Path, **options))["complete"] = complete_files

    parser = _Parser(prog="beluna-gateway", description="One Unix socket for every model call.")
    parser.add_argument("--version", action="version", version=f"beluna-gateway {__version__}")
    path_argument(parser, "--config", metavar="FILE", help=_CONFIG_HELP)
    parser.set_defaults(command="serve")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", description="without one: serve")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        # SUPPRESS: otherwise its default would replace a --config before the command
        path_argument(added, "--config", default=argparse.SUPPRESS, metavar="FILE", help=_CONFIG_HELP)
        added.set_defaults(command=name)
        return added

    command("serve", "run the daemon")

    ask = command("ask", "ask one question through the daemon and print the answer as it streams")
    ask.add_argument("question", nargs="?", default="-", help="the question; `-` or nothing: read it from stdin")
    path_argument(ask, "--socket", help="the daemon's socket; default: the configuration's socket_path")
    ask.add_argument("--backend", help="the backend's id; default: default_backend")
    ask.add_argument("--model", help="default: the backend's default_model")
    ask.add_argument("--system", help="a system prompt")
    ask.add_argument("--max-output-tokens", type=int, metavar="N", help="stop the answer there")
    ask.add_argument("--effort", choices=EFFORTS, help="how much the model is to reason")
    path_argument(
        ask,
        "--file",
        action="append",
        metavar="PATH",
        help="an image or another file beside the question; may be repeated",
    )
    ask.add_argument("--json", action="store_true", help="print the frames as they come")

    check = command("check", "check the configuration and the credentials, and probe each backend")
    check.add_argument("--backend", help="only this one")
    check.add_argument("--offline", action="store_true", help="only what `serve` would refuse; nothing is contacted")
    check.add_argument("--json", action="store_true", help="print one JSON object")

    models = command("models", "list a backend's models")
    path_argument(models, "--socket", help="the daemon's socket; default: the configuration's socket_path")
    models.add_argument("--backend", help="the backend's id; default: default_backend")
    models.add_argument("--json", action="store_true", help="print the frame as it comes")

    reload = command("reload", "have the daemon read its configuration again; requests in flight go on")
    path_argument(reload, "--socket", help="the daemon's socket; default: the configuration's socket_path")

    status = command("status", "print the daemon's state: backends, breakers, requests")
    path_argument(status, "--socket", help="default: the configuration's socket_path")
    status.add_argument("--json", action="store_true", help="print the frame as it comes")

    top = command("top", "watch the daemon in the terminal: requests, tokens, breakers, money")
    path_argument(top, "--socket", help="the daemon's socket; default: the configuration's socket_path")
    top.add_argument("--every", type=_seconds, default=1.0, metavar="SECONDS", help="between two pictures; default: 1")
    top.add_argument("--once", action="store_true", help="print one picture as plain text and end")

    schema = command("schema", "print a JSON Schema")
    schema.add_argument("which", nargs="?", choices=["config", "client", "server"], default="config")

    init = command("init", "write a first configuration, with comments; nothing that is there is overwritten")
    path_argument(init, "folder", nargs="?", help="default: this one")
    init.add_argument("--systemd", action="store_true", help="for a service of the system: also write the units")

    completion = command("completion", "print a script that completes this command in a shell")
    completion.add_argument("shell", choices=["bash", "zsh", "fish"])
    return parser


def _seconds(text: str) -> float:
    """The value of `--every`."""
    with suppress(ValueError):
        seconds = float(text)
        if 0.05 <= seconds <= 3600:
            return seconds
    raise argparse.ArgumentTypeError(f"{text} is not between 0.05 and 3600")
