"""What fuzzing has found stays found, and a short budget of new inputs is tried with each run of the suite.

`make fuzz` tries more: guided by coverage, and as long as it is told to.
"""

from __future__ import annotations

import base64
import random
from pathlib import Path

import pytest

from . import targets
from .__main__ import MAX_BYTES, told

CORPUS = Path(__file__).parent / "corpus"
FOUND = sorted(path for path in CORPUS.glob("*/*"))
TRIED = 200


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_keeps_its_promise(path):
    """The inputs in `corpus/`, each of which broke a promise once; stretched, too."""
    data = path.read_bytes()

    targets.play(path.parent.name, data)
    targets.play_stretched(path.parent.name, data)


def test_every_folder_of_the_corpus_is_a_target():
    """No input is left out because its target was renamed."""
    assert {path.parent.name for path in FOUND} <= set(targets.TARGETS)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_changed_inputs_keep_the_promises(name):
    """Right inputs and changed ones; the same ones with each run."""
    dice, seeds, mutator = random.Random(name), targets.seeds(name), targets.mutator(name)
    for data in dice.sample(seeds, min(len(seeds), 5)):
        targets.play(name, data)
        targets.play_stretched(name, data)
    for _ in range(TRIED):
        targets.play(name, mutator.mutate(dice.choice(seeds), dice))


def test_what_breaks_a_promise_can_be_read_from_the_output(tmp_path):
    """A log of CI is all that is left of its machine: the input can be made of it again."""
    path = tmp_path / "crash-1"
    path.write_bytes(bytes(range(256)))

    text = told("sse", path)

    assert "256 bytes broke a promise of sse" in text
    assert base64.b64decode(text.partition("<<< ")[2].split()[0]) == path.read_bytes()


def test_what_is_printed_of_an_input_is_bounded(tmp_path):
    """And the text says that there was more."""
    path = tmp_path / "crash-1"
    path.write_bytes(b"x" * (2 * MAX_BYTES + 1))

    text = told("sse", path)

    assert f"of which these are the first {2 * MAX_BYTES}" in text
    assert len(text) < 4 * MAX_BYTES
