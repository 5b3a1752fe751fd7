"""`ClientTable` and `Client`: who a peer is, what it may ask, and how much."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from beluna_gateway.canonical import CanonicalRequest, UsageStats
from beluna_gateway.config.settings import Budget, Server
from beluna_gateway.errors import GatewayError
from beluna_gateway.pipeline.budget import BudgetEnforcer
from beluna_gateway.pipeline.clients import MAX_UIDS, OTHER, Client, ClientTable, Origin

from ..fakes.clock import virtual_time

BUDGETS = {"a": Budget(), "b": Budget(max_request_time_ms=1000, max_usage_tokens_per_request=100)}


def table(*clients: dict[str, Any], before: ClientTable | None = None, **server: Any) -> ClientTable:
    settings = Server.model_validate({**({"clients": list(clients)} if clients else {}), **server})
    return ClientTable(settings, BUDGETS, before)


def client(**settings: Any) -> Client:
    return table({"name": "core", "uids": [1000], **settings}).of(1000)


def request(**fields: Any) -> CanonicalRequest:
    return CanonicalRequest("r1", (), **fields)


# --- who it is -----------------------------------------------------------------------------------------------


def test_a_client_has_its_configured_name():
    """Each of its uids is the same client."""
    clients = table({"name": "core", "uids": [1000, 1001]}, {"name": "notes", "uids": [1002]})

    assert [clients.of(uid).name for uid in (1000, 1001, 1002)] == ["core", "core", "notes"]
    assert clients.of(1000) is clients.of(1001)
    assert [one.name for one in clients] == ["core", "notes"]


@pytest.mark.parametrize(
    ("server", "uid", "setting"),
    [
        ({"clients": [{"name": "core", "uids": [1000]}]}, 1001, "server.clients"),
        ({"allowed_uids": [1000]}, 1001, "server.allowed_uids"),
        ({"allowed_uids": [1000], "clients": [{"name": "core", "uids": [1000]}]}, 1001, "server.allowed_uids"),
        ({"allowed_uids": [1000, 1001], "clients": [{"name": "core", "uids": [1000]}]}, 1001, "server.clients"),
    ],
)
def test_other_uids_are_refused(server, uid, setting):
    """`authorization`, with the uid and the setting; where both lists are given a peer has to be in both."""
    clients = table(**server)
    with pytest.raises(GatewayError) as caught:
        clients.of(uid)

    assert caught.value.kind == "authorization"
    assert caught.value.message == f"uid {uid} may not connect ({setting})"
    clients.of(1000)


def test_without_a_list_the_name_is_the_uid():
    """Whoever comes is known by the uid, and may ask everything."""
    clients = table()

    assert clients.of(1000).name == "1000"
    assert clients.of(1000) is clients.of(1000)
    clients.of(1000).check("a")
    assert [one.name for one in clients] == ["1000"]


def test_allowed_uids_are_known_from_the_start():
    """Who may connect is there before having connected, so that its counters begin with 0."""
    assert [one.name for one in table(allowed_uids=[1000, 1001])] == ["1000", "1001"]
    assert len(list(table(allowed_uids=list(range(1000))))) == MAX_UIDS


def test_the_number_of_names_is_bounded():
    """Names are labels: where very many uids come, the later ones share one."""
    clients = table()
    names = [clients.of(uid).name for uid in range(1000)]

    assert names[:MAX_UIDS] == [str(uid) for uid in range(MAX_UIDS)]
    assert set(names[MAX_UIDS:]) == {OTHER}
    assert clients.of(0).name == "0"


# --- what it may ask, and how much ---------------------------------------------------------------------------


@pytest.mark.parametrize(("backends", "refused"), [(None, ""), (["a"], "b"), (["a", "b"], ""), ([], "ab")])
def test_only_its_backends(backends, refused):
    """A backend that is not in the list is `authorization`; without a list there is none."""
    one = client(backends=backends)
    for backend_id in "ab":
        if backend_id in refused:
            with pytest.raises(GatewayError, match=rf"client 'core' may not ask backend '{backend_id}'") as caught:
                one.check(backend_id)
            assert caught.value.kind == "authorization"
        else:
            one.check(backend_id)


def test_its_budget_only_narrows():
    """Of the client's limit and the backend's the smaller counts, for time and for tokens."""
    wide = client(budget={"max_request_time_ms": 5000, "max_usage_tokens_per_request": 500})
    small = client(budget={"max_request_time_ms": 200, "max_usage_tokens_per_request": 50})
    backend = BudgetEnforcer(BUDGETS["b"], "b")

    assert wide.narrowed(backend, "b").seconds(request()) == 1.0
    assert small.narrowed(backend, "b").seconds(request()) == 0.2
    with pytest.raises(GatewayError, match=r"101 is more than the 100 "):
        wide.narrowed(backend, "b").check(request(max_output_tokens=101))
    with pytest.raises(
        GatewayError, match=r"51 is more than the 50 that a request of client 'core' .*server\.clients\[\]\.budget"
    ):
        small.narrowed(backend, "b").check(request(max_output_tokens=51))


def test_without_a_budget_the_backends_counts():
    """A client that has no limits of its own costs nothing."""
    backend = BudgetEnforcer(BUDGETS["b"], "b")

    assert client().narrowed(backend, "b") is backend


@virtual_time
async def test_its_own_places_come_first():
    """A client's requests beyond its own places wait without a place at the backend, and others pass them."""
    one = client(budget={"max_concurrency_per_backend": 1})
    backend = BudgetEnforcer(Budget(max_concurrency_per_backend=2), "a")
    done = asyncio.Event()

    async def hold() -> None:
        async with one.narrowed(backend, "a").lease():
            await done.wait()

    tasks = [asyncio.create_task(hold()) for _ in range(3)]
    await asyncio.sleep(1)

    assert (backend.in_flight, backend.queued, one.queued) == (1, 0, 2)
    async with backend.lease():
        assert backend.in_flight == 2
    tasks[1].cancel()
    done.set()
    await asyncio.wait(tasks)
    assert (backend.in_flight, backend.queued, one.queued) == (0, 0, 0)


@virtual_time
async def test_its_own_start_rate():
    """The start rate of a client is its own, and the smaller one counts."""
    one = client(budget={"rate_smoothing_per_second": 5})
    backend = BudgetEnforcer(Budget(max_concurrency_per_backend=100, rate_smoothing_per_second=50), "a")
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for _ in range(10):
        async with one.narrowed(backend, "a").lease():
            pass

    assert loop.time() - begun == pytest.approx(1.0, abs=0.1)


def test_places_are_per_backend():
    """What a client uses at one backend does not count at another."""
    one = client(budget={"max_concurrency_per_backend": 1})
    backend = BudgetEnforcer(Budget(), "a")

    assert one.narrowed(backend, "a")._own is one.narrowed(backend, "a")._own  # type: ignore[union-attr]
    assert one.narrowed(backend, "a")._own is not one.narrowed(backend, "b")._own  # type: ignore[union-attr]


def test_what_it_has_used():
    """Requests, failures and reported tokens add up."""
    one = client()
    one.ended(UsageStats(5, 6, 20, cost=0.1), failed=False)
    one.ended(None, failed=True)
    one.ended(UsageStats(1, 2, cost=0.2), failed=False)

    assert (one.requests, one.failures) == (3, 1)
    assert one.used.status() == {"used_tokens": 23, "output_tokens": 8, "cost_usd": 0.3}


# --- another configuration -----------------------------------------------------------------------------------


def test_an_unchanged_client_keeps_what_it_uses():
    """After a reload a client that is configured as before is the same one; a changed one begins anew."""
    core, notes = {"name": "core", "uids": [1000]}, {"name": "notes", "uids": [1001]}
    before = table(core, notes)
    after = table(core, {**notes, "backends": ["a"]}, before=before)

    assert after.of(1000) is before.of(1000)
    assert after.of(1001) is not before.of(1001)
    assert [one.name for one in table(core, before=before)] == ["core"]


def test_uids_are_kept_where_no_clients_are_configured():
    """Only a list of clients takes their place."""
    before = table()
    known = before.of(1000)

    assert table(before=before).of(1000) is known
    assert [one.name for one in table({"name": "core", "uids": [1000]}, before=before)] == ["core"]


def test_a_request_moves_to_another_configuration():
    """Of its peer's client there; who is none there is refused. A program's own requests have no client."""
    before, after = table({"name": "core", "uids": [1000]}), table({"name": "notes", "uids": [1000], "backends": []})
    origin, own = Origin(before.of(1000), 1000), Origin()
    origin.move_to(after)
    own.move_to(after)

    assert origin.client is after.of(1000)
    assert own.client is None
    with pytest.raises(GatewayError, match="uid 1000 may not connect") as caught:
        origin.move_to(table({"name": "core", "uids": [1]}))
    assert caught.value.kind == "authorization"
