"""Which backend serves a request: the one that it names, else the default one. There is no fallback, ever."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..canonical import CanonicalRequest
from ..config.settings import BackendProfile
from ..errors import invalid_request


@dataclass(frozen=True, slots=True)
class SelectedBackend:
    profile: BackendProfile
    model: str


class BackendRouter:
    """Picks by name.

    Args:
        profiles: Every configured backend by its id.
        default_backend: The id for requests that name none; one of `profiles`.
    """

    def __init__(self, profiles: Mapping[str, BackendProfile], default_backend: str) -> None:
        self._profiles = profiles
        self._default = default_backend

    def select(self, request: CanonicalRequest) -> SelectedBackend:
        """The backend and model for `request`.

        Raises:
            GatewayError: `invalid_request`, where the backend it names is not configured.
        """
        name = self._default if request.backend_hint is None else request.backend_hint
        profile = self._profiles.get(name)
        if profile is None:
            known = ", ".join(map(repr, self._profiles))
            raise invalid_request(f"backend_id: {name!r} is not configured; configured are {known}")
        return SelectedBackend(profile, profile.backend.default_model if request.model is None else request.model)
