"""A plugin for pytest, for the runs with mutants: fewer examples, and an end for mutants that loop for ever.

The limit is in seconds of the processor, so that a busy machine does not turn a survivor into a mutant that timed out.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import Phase, is_hypothesis_test, settings

MOST_EXAMPLES = 40
SECONDS_OF_A_TEST = 12
"""Of the processor; the slowest test takes a quarter of it."""
BYTES_OF_A_TEST = 4 * 2**30
"""Of the address space, for mutants that collect for ever."""

# The same examples for every mutant, and no search for a smaller one where one has failed.
settings.register_profile(
    "mutation",
    max_examples=MOST_EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lowers the numbers of examples that tests ask for themselves."""
    for item in items:
        test: Any = getattr(item, "function", None)
        if is_hypothesis_test(test):
            asked = getattr(test, "_hypothesis_internal_use_settings", None)  # a state machine's test has none
            if asked is not None and asked.max_examples > MOST_EXAMPLES:
                test._hypothesis_internal_use_settings = settings(asked, max_examples=MOST_EXAMPLES)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """SIGXCPU ends the process whose test uses too much, which mutmut counts as timed out; or there is no memory."""
    if "__mutmut_" not in os.environ.get("MUTANT_UNDER_TEST", ""):
        return (yield)  # the runs that find out which test calls what are many times slower
    limits = {
        resource.RLIMIT_CPU: int(time.process_time()) + SECONDS_OF_A_TEST,
        resource.RLIMIT_AS: BYTES_OF_A_TEST,
    }
    before = {kind: resource.getrlimit(kind) for kind in limits}
    for kind, limit in limits.items():
        hard = before[kind][1]
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        return (yield)
    finally:
        for kind, pair in before.items():
            resource.setrlimit(kind, pair)
