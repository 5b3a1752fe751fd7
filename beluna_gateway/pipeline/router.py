"""Which backend and model serve a request: those that it names, else the default ones. There is no fallback, ever."""

from __future__ import annotations

from collections.abc import Mapping

from ..canonical import CanonicalRequest, Operation, immutable
from ..config.settings import DEFAULT_ALIAS, BackendProfile, Target
from ..errors import invalid_request, quoted


@immutable
class SelectedBackend:
    """A backend, and the model of it."""

    profile: BackendProfile
    model: str


class BackendRouter:
    """Picks by name.

    Args:
        profiles: Every configured backend by its id.
        default_backend: The id for requests that name none, one of `profiles`; None: the alias `default` decides.
        aliases: What each alias stands for.
    """

    def __init__(
        self,
        profiles: Mapping[str, BackendProfile],
        default_backend: str | None,
        aliases: Mapping[str, Target] | None = None,
    ) -> None:
        self._profiles = profiles
        self._aliases = aliases or {}
        if default_backend is not None:
            self._default = Target(default_backend, profiles[default_backend].default_model)
        else:
            self._default = self._aliases[DEFAULT_ALIAS]

    @property
    def default_backend(self) -> str:
        """The id of the backend for requests that name none."""
        return self._default.backend_id

    def select(self, request: CanonicalRequest | Operation) -> SelectedBackend:
        """The backend and model for `request`.

        Raises:
            GatewayError: `invalid_request`, where the backend or alias that it names is not configured.
        """
        if request.route is not None:
            target = self._aliases.get(request.route)
            if target is None:
                known_aliases = _configured(self._aliases)
                raise invalid_request(f"route: {quoted(request.route)} is no alias of a model; {known_aliases}")
            return SelectedBackend(self._profiles[target.backend_id], target.model)
        if request.backend_hint is None:
            profile, model = self._profiles[self._default.backend_id], self._default.model
        else:
            known = self._profiles.get(request.backend_hint)
            if known is None:
                configured = _configured(self._profiles)
                raise invalid_request(f"backend_id: {quoted(request.backend_hint)} is not configured; {configured}")
            profile, model = known, known.default_model
        return SelectedBackend(profile, model if request.model is None else request.model)


def _configured(names: Mapping[str, object]) -> str:
    return f"configured are {', '.join(map(repr, names))}" if names else "none is configured"
