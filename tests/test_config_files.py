"""The files that ship: `beluna.jsonc`, and the schema that editors check it with."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import jsonschema
import pyjson5
import pytest

from beluna_gateway.cli import DEFAULT_CONFIG
from beluna_gateway.config import DIALECTS, json_schema, load_config

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / DEFAULT_CONFIG


def test_shipped_configuration_loads():
    """The shipped configuration is valid, has a backend for each dialect, and needs no key for the default one."""
    gateway = load_config(SHIPPED).ai_gateway
    by_id = {backend.id: backend for backend in gateway.backends}

    assert {backend.dialect for backend in gateway.backends} == set(DIALECTS)
    assert by_id[gateway.default_backend].credential.type == "none"
    assert by_id[gateway.default_backend].launch is not None


def test_shipped_configuration_follows_the_schema():
    """The schema that editors use takes the shipped configuration, and refuses a key that is not known."""
    schema = json.loads((ROOT / "beluna.schema.json").read_text())
    config = pyjson5.decode(SHIPPED.read_text())
    jsonschema.validate(config, schema)

    with pytest.raises(jsonschema.ValidationError, match="typo"):
        jsonschema.validate({**config, "typo": 1}, schema)


def test_schema_is_current():
    """`beluna.schema.json` is what the models say; `make schema` writes it."""
    assert json.loads((ROOT / "beluna.schema.json").read_text()) == json_schema()


def test_values_in_the_shipped_configuration_are_the_defaults():
    """What the shipped configuration spells out for all backends is what holds without it: nobody need copy it."""
    config = load_config(SHIPPED)
    for section in (config.ai_gateway.reliability, config.ai_gateway.budget, config.server, config.telemetry):
        assert section == type(section)()


def test_every_target_has_a_help_line():
    """`make help` lists each target that is there for people, with a few words."""
    makefile = (ROOT / "Makefile").read_text()
    phony = next(line for line in makefile.splitlines() if line.startswith(".PHONY:")).split()[1:]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    listed = subprocess.run(
        ["make", "help"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout

    assert [line.split()[1] for line in listed.splitlines()] == phony
    assert all(len(line.split()) > 3 for line in listed.splitlines())
