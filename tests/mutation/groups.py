"""Which modules are mutated, and which tests each group of them must be killed by.

A module stands here if it does no I/O: values in, values out. Its tests are those of the mirrored folder, and those
above it that are short; the suites at the daemon's socket are left out, because a mutant would take minutes there.
"""

from __future__ import annotations

from typing import NamedTuple


class Group(NamedTuple):
    modules: tuple[str, ...]
    """Files below `beluna_gateway/`; `*` stands for anything."""
    tests: tuple[str, ...]
    """Files and folders below `tests/`."""


def _dialect(name: str, *more: str) -> Group:
    return Group(
        (f"adapters/dialects/{name}.py", f"adapters/dialects/{name}_*.py"),
        (f"adapters/dialects/test_{name}.py", *more, *_EVERY_DIALECT),
    )


_EVERY_DIALECT = (
    "adapters/dialects/test_media.py",
    "adapters/dialects/test_requests.py",
    "adapters/dialects/test_violations.py",
    "adapters/decoding/test_annotations.py",
    "adapters/operations",
    "adapters/dialects/test_parallel_calls_and_tiers.py",
    "adapters/encoding/test_caching.py",
    "adapters/encoding/test_reasoning.py",
    "adapters/test_all_adapters.py",
    "adapters/test_reported_answers.py",
    "adapters/test_recordings.py",
    "adapters/test_decoders_fuzz.py",
    "adapters/encoding/test_core_request.py",
)

GROUPS: dict[str, Group] = {
    "pipeline": Group(
        tuple(
            f"pipeline/{name}.py"
            for name in (
                "budget",
                "capabilities",
                "pricing",
                "reliability",
                "request_normalizer",
                "response_normalizer",
                "router",
            )
        ),
        ("pipeline",),
    ),
    "wire": Group(("wire/*.py",), ("wire",)),
    "config": Group(
        ("config/rules.py", "config/mistakes.py", "schemas/*.py"),
        ("config", "wire/test_frames.py", "wire/test_frame_schemas.py"),
    ),
    "telemetry": Group(
        ("telemetry/redaction.py", "telemetry/metrics.py", "telemetry/records.py"),
        ("telemetry/test_redaction.py", "telemetry/test_metrics.py", "telemetry/test_telemetry.py"),
    ),
    "errors": Group(("errors.py",), ("test_errors.py", "wire/test_encoding.py", "wire/test_frame_schemas.py")),
    "quota": Group(tuple(f"quota/{name}.py" for name in ("decision", "limits", "queue", "reports")), ("quota",)),
    "decoding": Group(("adapters/decoding/*.py",), ("adapters/decoding", "adapters/dialects")),
    "encoding": Group(("adapters/encoding/*.py",), ("adapters/encoding", "adapters/dialects")),
    "streams": Group(
        tuple(f"adapters/http/{name}.py" for name in ("sse", "ndjson", "payloads", "request_head")),
        tuple(f"adapters/http/test_{name}.py" for name in ("sse", "ndjson", "payloads", "reads", "request_head")),
    ),
    "anthropic": _dialect("anthropic"),
    "gemini": _dialect("gemini"),
    "ollama": _dialect("ollama"),
    "openai_compatible": _dialect("openai_compatible", "adapters/dialects/test_openai_compatible_answers.py"),
    "openai_responses": _dialect("openai_responses"),
}
