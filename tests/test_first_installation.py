"""The script that types docs/first-installation.md into a shell writes what the shell answers."""

from __future__ import annotations

from .first_installation import FAILED, INSTALLATION_PAGE, Shell, played

PAGE = """# A page

```console
$ name=world; echo 'hello  '
an older answer
$ echo $name >&2; printf 'no line end'
$ false
$ sleep 1000 > /dev/null &
$ kill $!; wait
```
"""

ANSWERED = """# A page

```console
$ name=world; echo 'hello  '
hello
$ echo $name >&2; printf 'no line end'
world
no line end
$ false
(exit status 1)
$ sleep 1000 > /dev/null &
$ kill $!; wait
```
"""


def test_a_page_is_played_in_one_shell() -> None:
    """Both outputs, variables and background jobs as in a terminal, and what failed is marked."""
    with Shell(["bash"], background_seconds=0) as shell:
        assert played(PAGE, shell) == ANSWERED
    assert FAILED.findall(ANSWERED) == ["1"]


def test_the_page_was_played() -> None:
    """Most commands on it have an answer, and nothing failed but what is meant to."""
    text = INSTALLATION_PAGE.read_text("utf-8")

    assert text.count("\n$ ") > 20
    assert set(FAILED.findall(text)) == {"1", "69"}
    assert "The capital of France is Paris" in text
