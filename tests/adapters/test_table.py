"""`adapters/__init__.py`: the one table of dialects, and everything that has to know each of them."""

from __future__ import annotations

import pytest

from beluna_gateway.adapters import ADAPTERS
from beluna_gateway.config.settings import DIALECTS, HTTP_DIALECTS

from .oracles import ORACLES
from .recorded import ENDPOINTS, RECORDINGS, dialect


def test_the_table_has_exactly_the_dialects_of_the_configuration() -> None:
    """What can be configured can be used, and the other way round."""
    assert set(DIALECTS) == set(ADAPTERS)


@pytest.mark.parametrize("name", sorted(HTTP_DIALECTS))
def test_every_http_dialect_can_be_tested(name: str) -> None:
    """Each has an endpoint, an oracle and recordings, and bears the name it is configured by."""
    assert name in ENDPOINTS
    assert name in ORACLES
    assert any((RECORDINGS / name).iterdir())
    assert dialect(name).name == name


@pytest.mark.parametrize("name", sorted(HTTP_DIALECTS))
def test_no_credential_is_sent_in_a_url(name: str) -> None:
    """Every dialect has a header for its secret, and neither path nor probe has room for one."""
    headers = dialect(name).auth_headers("s3cret")

    assert any("s3cret" in value for value in headers.values())
    assert "key" not in dialect(name).probe_path
