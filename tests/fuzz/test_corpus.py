"""What fuzzing has found stays found, and a short budget of new inputs is tried with each run of the suite.

`make fuzz` tries more: guided by coverage, and as long as it is told to.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from . import targets

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
