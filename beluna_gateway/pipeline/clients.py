"""Who asks: the client of a peer's uid, which backends it may ask, its own limits, and what it has used.

`server.clients` names the clients. Without that list each uid is a client of its own, which may ask everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..canonical import UsageStats
from ..config.settings import Budget, ClientBudget, ClientSettings, Server
from ..errors import GatewayError
from .budget import BudgetEnforcer, NarrowedBudget, Used

if TYPE_CHECKING:
    from ..quota.limits import Scope
    from ..quota.owner import QuotaOwner

MAX_UIDS = 64
"""How many uids have a name of their own where no clients are configured; later ones share the name `other`. Names are
labels of metrics, and one user can have 65,536 uids (user namespaces)."""

OTHER = "other"
_COUNTED = ("shared_", "spend_")


class Client:
    """One client, and what it has used since the daemon's start.

    Args:
        name: From the configuration, or the uid as text.
        settings: Its entry in `server.clients`, where there is one.
        budgets: The budget of each configured backend by id.
        quota: Where limits are kept that daemons share.
    """

    def __init__(
        self,
        name: str,
        settings: ClientSettings | None,
        budgets: Mapping[str, Budget],
        quota: QuotaOwner | None = None,
    ) -> None:
        self.name = name
        self.requests = 0
        self.failures = 0
        self.used = Used()
        self._settings = settings
        self._narrows = settings is not None and bool(settings.budget.model_fields_set)
        self._budgets = dict(budgets)
        self._quota = quota
        self._enforcers: dict[str, BudgetEnforcer] = {}

    def is_still(
        self, settings: ClientSettings | None, budgets: Mapping[str, Budget], quota: QuotaOwner | None
    ) -> bool:
        """Whether another configuration describes this client as it is."""
        return self._settings == settings and self._budgets == budgets and self._quota is quota

    def check(self, backend_id: str) -> None:
        """Refuses a backend that is not among `server.clients[].backends`.

        Raises:
            GatewayError: `authorization`.
        """
        may = None if self._settings is None else self._settings.backends
        if may is not None and backend_id not in may:
            known = ", ".join(map(repr, may)) or "none"
            raise GatewayError(
                "authorization",
                f"client {self.name!r} may not ask backend {backend_id!r}, only {known} (server.clients[].backends)",
            )

    def narrowed(self, backend: BudgetEnforcer, backend_id: str) -> BudgetEnforcer | NarrowedBudget:
        """The limits of this client's requests to a backend: the backend's, narrowed by its own."""
        own = self._own(backend_id)
        return backend if own is None else NarrowedBudget(own, backend)

    def limits_in_use(self, backend_id: str) -> list[dict[str, Any]]:
        """What is used of this client's own limits at a backend; see `BudgetEnforcer.limits_in_use`."""
        own = self._own(backend_id)
        return [] if own is None else own.limits_in_use()

    def shared_scope(self, backend_id: str) -> Scope | None:
        """Which limits of its own at a backend it shares among daemons."""
        own = self._own(backend_id)
        return None if own is None else own.scope

    def _own(self, backend_id: str) -> BudgetEnforcer | None:
        """This client's own limits at a backend; None where it has none."""
        if self._settings is None or not self._narrows:
            return None
        own = self._enforcers.get(backend_id)
        if own is None:
            smaller = _smaller(self._budgets[backend_id], self._settings.budget)
            own = BudgetEnforcer(smaller, backend_id, client=self.name, quota=self._quota)
            self._enforcers[backend_id] = own
        return own

    def ended(self, usage: UsageStats | None, *, failed: bool) -> None:
        """Counts a request that has ended."""
        self.requests += 1
        self.failures += failed
        if usage is not None:
            self.used.add(usage)

    @property
    def queued(self) -> int:
        """Requests that wait for a place of this client's own."""
        return sum(enforcer.queued for enforcer in self._enforcers.values())


class ClientTable:
    """The clients by uid.

    Args:
        settings: The configuration's `server` section.
        budgets: The budget of each configured backend by id.
        before: The table of the configuration before this one: clients that have not changed keep what they use.
        quota: Where limits are kept that daemons share.
    """

    def __init__(
        self,
        settings: Server,
        budgets: Mapping[str, Budget],
        before: ClientTable | None = None,
        quota: QuotaOwner | None = None,
    ) -> None:
        self._allowed = None if settings.allowed_uids is None else frozenset(settings.allowed_uids)
        self.named = settings.clients is not None
        self._budgets = budgets
        self._by_uid: dict[int, Client] = {}
        known = {} if before is None else {client.name: client for client in before}
        uids_stay = before is not None and not before.named and not self.named
        self._by_name = known if uids_stay else {}
        if not self.named:
            for uid in (settings.allowed_uids or ())[:MAX_UIDS]:
                self._unnamed(uid)
        for entry in settings.clients or ():
            client = known.get(entry.name)
            if client is None or not client.is_still(entry, budgets, quota):
                client = Client(entry.name, entry, budgets, quota)
            self._by_name[entry.name] = client
            self._by_uid.update(dict.fromkeys(entry.uids, client))

    def __iter__(self) -> Iterator[Client]:
        """Those that are configured, or else the uids that are allowed or have connected."""
        return iter(self._by_name.values())

    def of(self, uid: int) -> Client:
        """The client with that uid.

        Raises:
            GatewayError: `authorization`: it may not connect.
        """
        if self._allowed is not None and uid not in self._allowed:
            raise GatewayError("authorization", f"uid {uid} may not connect (server.allowed_uids)")
        client = self._by_uid.get(uid)
        if client is None:
            if self.named:
                raise GatewayError("authorization", f"uid {uid} may not connect (server.clients)")
            client = self._unnamed(uid)
        return client

    def _unnamed(self, uid: int) -> Client:
        name = str(uid)
        if name not in self._by_name and len(self._by_name) >= MAX_UIDS:
            name = OTHER
        client = self._by_name.get(name)
        if client is None:
            client = self._by_name[name] = Client(name, None, self._budgets)
        if name != OTHER:
            self._by_uid[uid] = client
        return client


@dataclass(slots=True)
class Origin:
    """Where one request comes from."""

    client: Client | None = None
    """None: a program that embeds the gateway."""
    uid: int | None = None
    cancelled_at: float | None = field(default=None, init=False)
    """Monotonic seconds (`time.monotonic`) at which somebody cancelled the request, set by whoever did."""

    def move_to(self, clients: ClientTable) -> None:
        """Makes the client that of another configuration, with its rights and limits there.

        Raises:
            GatewayError: `authorization`: the peer is no client there.
        """
        if self.uid is not None:
            self.client = clients.of(self.uid)


def _smaller(backend: Budget, own: ClientBudget) -> Budget:
    """Of each limit the smaller one; null is no limit. What is counted of money, or among daemons, is the client's own
    alone: the backend counts all clients together.
    """
    limits: dict[str, Any] = {name: getattr(own, name) for name in Budget.model_fields if name.startswith(_COUNTED)}
    for name in own.model_fields_set - limits.keys():
        given = [limit for budget in (backend, own) if (limit := getattr(budget, name)) is not None]
        limits[name] = min(given, default=None)
    return backend.model_copy(update=limits)
