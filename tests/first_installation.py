"""Types the commands of docs/first-installation.md into a shell, for `.ci/first-installation`.

Arguments: the page, `--write` or `--check`, and the command of a shell in the container. `--write` puts what was
answered into the page; `--check` ends with status 1 where another command failed than on the page, and shows what was
answered differently, numbers aside.
"""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
from pathlib import Path
from typing import Self

BACKGROUND_SECONDS = 3
"""After a command that ends with `&`: a person does not type the next one at once either."""

BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
FAILED = re.compile(r"^\(exit status (\d+)\)$", re.MULTILINE)


INSTALLATION_PAGE = Path(__file__).resolve().parents[1] / "docs" / "first-installation.md"


class Shell:
    """A shell in which one command after the other is typed; leaving the block ends it."""

    def __init__(self, command: list[str], background_seconds: float = BACKGROUND_SECONDS) -> None:
        self._pause = f"; sleep {background_seconds}"
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def type(self, command: str) -> str:
        """What the command prints on both outputs, and its exit status where that is not 0."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        wait = self._pause if command.endswith("&") else ""
        line = f"{{ {command}\n}} < /dev/null; status=$?{wait}; printf '\\nEND %d\\n' $status\n"
        self._process.stdin.write(line)
        self._process.stdin.flush()
        said = ""
        for text in self._process.stdout:
            if ended := re.fullmatch(r"END (\d+)\n", text):
                said = said.removesuffix("\n")
                return said if ended[1] == "0" else f"{said}(exit status {ended[1]})\n"
            said += text
        raise SystemExit(f"the shell ended at `{command}`, after it said:\n{said}")


def played(page: str, shell: Shell) -> str:
    """The page with what was answered."""

    def play(block: re.Match[str]) -> str:
        said = ""
        for command in re.findall(r"^\$ (.*)$", block[1], re.MULTILINE):
            answer = "\n".join(line.rstrip() for line in shell.type(command).splitlines())
            said += f"$ {command}\n" + (f"{answer}\n" if answer else "")
        return f"```console\n{said}```"

    return BLOCK.sub(play, page)


def main() -> int:
    """Plays the page."""
    path, mode, *command = sys.argv[1:]
    before = Path(path).read_text("utf-8")
    with Shell(command) as shell:
        after = played(before, shell)
    if mode == "--write":
        Path(path).write_text(after, "utf-8")
        return 0
    sys.stdout.writelines(difflib.unified_diff(_masked(before), _masked(after), "the page", "now", n=0))
    return int(FAILED.findall(before) != FAILED.findall(after))


def _masked(text: str) -> list[str]:
    return re.sub(r"[ ]*\d+(\.\d+)?", " N", text).splitlines(keepends=True)


if __name__ == "__main__":
    sys.exit(main())
