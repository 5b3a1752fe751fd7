"""The files beside the package: the example runs, and the schema is the models'."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from beluna_gateway.config.loading import load_config
from beluna_gateway.config.settings import json_schema

ROOT = Path(__file__).parents[2]


def test_the_example_loads():
    """`beluna.jsonc` is a configuration as it stands, and points its editor at the schema beside it."""
    loaded = load_config(ROOT / "beluna.jsonc")

    assert loaded.schema_url is not None
    assert (ROOT / loaded.schema_url).resolve() == ROOT / "beluna.schema.json"


def test_the_schema_file_is_the_models():
    """`beluna.schema.json` is what `beluna-gateway schema` prints."""
    assert json.loads((ROOT / "beluna.schema.json").read_text()) == json_schema()


def test_the_schema_ships_inside_the_package():
    """Whoever installs the package gets the schema file with it."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]

    assert build["force-include"]["beluna.schema.json"] == "beluna_gateway/beluna.schema.json"


@pytest.mark.parametrize("name", ["beluna.jsonc", "beluna.schema.json"])
def test_the_files_are_text(name: str):
    """UTF-8, and a line end at the end."""
    assert (ROOT / name).read_bytes().decode("utf-8").endswith("\n")
