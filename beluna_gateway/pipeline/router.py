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
        self._backends = {name: SelectedBackend(profile, profile.default_model) for name, profile in profiles.items()}
        self._aliases = {
            name: SelectedBackend(profiles[target.backend_id], target.model) for name, target in (aliases or {}).items()
        }
        self._default = self._aliases[DEFAULT_ALIAS] if default_backend is None else self._backends[default_backend]

    @property
    def default_backend(self) -> str:
        """The id of the backend for requests that name none."""
        return self._default.profile.id

    def select(self, request: CanonicalRequest | Operation) -> SelectedBackend:
        """The backend and model for `request`.

        Raises:
            GatewayError: `invalid_request`, where the backend or alias that it names is not configured.
        """
        selected: SelectedBackend | None
        if request.route is not None:
            selected = self._aliases.get(request.route)
            if selected is None:
                known = _configured(self._aliases)
                raise invalid_request(f"route: {quoted(request.route)} is no alias of a model; {known}")
        elif request.backend_hint is not None:
            selected = self._backends.get(request.backend_hint)
            if selected is None:
                known = _configured(self._backends)
                raise invalid_request(f"backend_id: {quoted(request.backend_hint)} is not configured; {known}")
        else:
            selected = self._default
        return selected if request.model is None else SelectedBackend(selected.profile, request.model)


def _configured(names: Mapping[str, object]) -> str:
    return f"configured are {', '.join(map(repr, names))}" if names else "none is configured"
