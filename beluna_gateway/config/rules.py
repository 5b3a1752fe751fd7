"""What is wrong with a configuration beyond its shape: rules between keys, and for texts that stand for something else.

Works on the raw data, which may have any shape, so that these mistakes are told together with pydantic's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from posixpath import normpath
from typing import Any
from urllib.parse import urlsplit

from .mistakes import shown
from .settings import DEFAULT_ALIAS, DIALECTS, HTTP_DIALECTS, Budget, Reliability, is_openai

_COPILOT = frozenset(DIALECTS) - HTTP_DIALECTS

# Keys of a backend that mean nothing to other dialects than these.
_DIALECTS_OF: dict[str, Collection[str]] = {
    "openai_compatible": ("openai_compatible",),
    "anthropic": ("anthropic",),
    "copilot": _COPILOT,
    "endpoint": HTTP_DIALECTS,
    "headers": HTTP_DIALECTS,
    "launch": HTTP_DIALECTS,
    "proxy": HTTP_DIALECTS,
    "proxy_credential": HTTP_DIALECTS,
    "tls": HTTP_DIALECTS,
}

# The gateway frames the request's body itself: RFC 9112, sections 6.1 and 6.2.
_FRAMING_HEADERS = frozenset({"content-length", "transfer-encoding"})


def broken_rules(raw: Any) -> Iterator[str]:
    """Each broken rule as a sentence. `raw` is the whole configuration, as it was read."""
    whole = _object(raw)
    gateway = _object(whole.get("ai_gateway"))
    yield from _path_mistake("socket_path", whole.get("socket_path"))
    yield from _metrics_mistakes(_object(whole.get("telemetry")).get("metrics"), whole.get("socket_path"))
    yield from _collector_mistake(_object(_object(whole.get("telemetry")).get("otlp")).get("endpoint"))
    yield from _given_twice(gateway)
    yield from _shared_mistakes(gateway, _list(_object(whole.get("server")).get("clients")))
    backends = gateway.get("backends")
    if isinstance(backends, list):
        named = [(f"ai_gateway.backends[{index}]", _object(backend)) for index, backend in enumerate(backends)]
        for path, backend in named:
            yield from _backend_mistakes(path, backend)
        yield from _name_mistakes(gateway, named)
    yield from _client_mistakes(_object(whole.get("server")), _backend_ids(gateway))


def _backend_ids(gateway: dict[str, Any]) -> list[str]:
    ids = (_object(backend).get("id") for backend in _list(gateway.get("backends")))
    return [name for name in ids if isinstance(name, str)]


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


# --- names -------------------------------------------------------------------------------------------------------


def _name_mistakes(gateway: dict[str, Any], backends: list[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    """Ids and aliases are unique, and there is a default."""
    ids: dict[str, str] = {}
    aliases: dict[str, str] = {}
    for path, backend in backends:
        name = backend.get("id")
        if isinstance(name, str):
            if name in ids:
                yield f"{path}.id: found {shown(name)} again, first at {ids[name]}; ids are unique"
            ids.setdefault(name, path)
        yield from _model_mistakes(path, backend, aliases)
    default = gateway.get("default_backend")
    if isinstance(default, str) and ids and default not in ids:
        known = ", ".join(map(repr, ids))
        yield f"ai_gateway.default_backend: found {shown(default)}, expected the id of a backend: {known}"
    if default is None and DEFAULT_ALIAS not in aliases:
        yield f"ai_gateway.default_backend: missing, but required where no model has the alias {DEFAULT_ALIAS!r}"


def _model_mistakes(path: str, backend: dict[str, Any], aliases: dict[str, str]) -> Iterator[str]:
    """The mistakes of a backend's models. `aliases` has those seen so far with their paths, and gets the new ones."""
    if backend and backend.get("default_model") is None and backend.get("models") is None:
        yield f"{path}.default_model: missing, but required where there are no models"
    ids: set[str] = set()
    for index, model in enumerate(_list(backend.get("models"))):
        place = f"{path}.models[{index}]"
        name = _object(model).get("id")
        if isinstance(name, str):
            if name in ids:
                yield f"{place}.id: found {shown(name)} again; the ids of a backend's models are unique"
            elif name and not name.strip():
                yield f"{place}.id: found {shown(name)}, expected a name"
            ids.add(name)
        for number, alias in enumerate(_list(_object(model).get("aliases"))):
            if isinstance(alias, str):
                yield from _alias_mistake(f"{place}.aliases[{number}]", alias, aliases)


def _alias_mistake(path: str, alias: str, aliases: dict[str, str]) -> Iterator[str]:
    name = alias.strip()
    if alias and not name:
        yield f"{path}: found {shown(alias)}, expected a name"
    elif name in aliases:
        yield f"{path}: found {shown(name)} again, first at {aliases[name]}; aliases are unique over all backends"
    aliases.setdefault(name, path)


# --- clients ---------------------------------------------------------------------------------------------------------


def _client_mistakes(server: dict[str, Any], backend_ids: list[str]) -> Iterator[str]:
    """Names and uids are unique, backends are configured, and `allowed_uids` keeps no client out."""
    names: dict[str, str] = {}
    uids: dict[int, str] = {}
    allowed = server.get("allowed_uids")
    for index, client in enumerate(map(_object, _list(server.get("clients")))):
        path = f"server.clients[{index}]"
        name = client.get("name")
        if isinstance(name, str):
            if name in names:
                yield f"{path}.name: found {shown(name)} again, first at {names[name]}; names of clients are unique"
            elif name and not name.strip():
                yield f"{path}.name: found {shown(name)}, expected a name"
            names.setdefault(name, path)
        for number, uid in enumerate(_list(client.get("uids"))):
            place = f"{path}.uids[{number}]"
            if isinstance(uid, bool) or not isinstance(uid, int):
                continue
            if uid in uids:
                yield f"{place}: found {uid} again, first at {uids[uid]}; a uid belongs to one client"
            elif isinstance(allowed, list) and uid not in allowed:
                yield f"{place}: {uid} is not in server.allowed_uids, so this client could not connect"
            uids.setdefault(uid, place)
        for number, backend_id in enumerate(_list(client.get("backends"))):
            if isinstance(backend_id, str) and backend_ids and backend_id not in backend_ids:
                known = ", ".join(map(repr, backend_ids))
                yield f"{path}.backends[{number}]: found {shown(backend_id)}, expected the id of a backend: {known}"


# --- settings where they have no effect ------------------------------------------------------------------------------


def _given_twice(gateway: dict[str, Any]) -> Iterator[str]:
    resilience = _object(gateway.get("resilience"))
    for section, model in (("reliability", Reliability), ("budget", Budget)):
        for key in _object(gateway.get(section)).keys() & resilience.keys() & model.model_fields.keys():
            yield f"ai_gateway.resilience.{key}: given twice, also as ai_gateway.{section}.{key}"


def _shared_mistakes(gateway: dict[str, Any], clients: list[Any]) -> Iterator[str]:
    """The store of the `shared_…` limits, and such limits without one."""
    shared = gateway.get("shared")
    if shared is None:
        places = {f"ai_gateway.{name}": gateway.get(name) for name in ("budget", "resilience")}
        for index, backend in enumerate(_list(gateway.get("backends"))):
            places[f"ai_gateway.backends[{index}].budget"] = _object(backend).get("budget")
        for index, client in enumerate(clients):
            places[f"server.clients[{index}].budget"] = _object(client).get("budget")
        for path, budget in places.items():
            for key, value in _object(budget).items():
                if key.startswith("shared_") and key in Budget.model_fields and value is not None:
                    yield f"{path}.{key}: without effect where there is no ai_gateway.shared"
    elif isinstance(shared, dict):
        yield from _store_mistakes("ai_gateway.shared", shared)


def _store_mistakes(path: str, shared: dict[str, Any]) -> Iterator[str]:
    url, sqlite = shared.get("url"), shared.get("sqlite")
    if url is None and sqlite is None:
        yield f"{path}: has neither `url` nor `sqlite`, expected one of them"
    elif url is not None and sqlite is not None:
        yield f"{path}: has `url` and `sqlite`, expected one of them"
    yield from _path_mistake(f"{path}.sqlite", sqlite)
    yield from _credential_mistakes(f"{path}.credential", shared.get("credential"))
    tls = _object(shared.get("tls"))
    yield from _tls_mistakes(f"{path}.tls", tls)
    if tls.get("key_file") is not None and tls.get("cert_file") is None:
        yield f"{path}.tls.key_file: without effect, there is no cert_file"
    if isinstance(url, str) and url:
        yield from _store_url_mistakes(f"{path}.url", url)
        if tls and not url.startswith("rediss://"):
            yield f"{path}.tls: without effect where the url is not rediss:"
    elif sqlite is not None:
        if _object(shared.get("credential")).get("type", "none") != "none":
            yield f"{path}.credential: without effect on a file, only with `url`"
        if tls:
            yield f"{path}.tls: without effect on a file, only with `url`"


def _store_url_mistakes(path: str, url: str) -> Iterator[str]:
    """Of `shared.url`; it is never repeated, for a password may stand in it by mistake."""
    try:
        found = urlsplit(url)
        password, host, port, database = found.password, found.hostname, found.port, found.path.removeprefix("/")
    except ValueError:  # a port that is no number, a bracket that is not closed
        yield f"{path}: cannot be read as a URL"
        return
    wrong = re.search(r"[\s\x00-\x1f\x7f]", url) is not None or found.fragment
    if password is not None or "password=" in found.query:
        yield f"{path}: holds a password; use `credential`"
    elif found.query and (found.scheme != "unix" or re.fullmatch("db=[0-9]+", found.query) is None):
        yield f"{path}: holds settings after a question mark, which are not taken; only unix: has one, `?db=N`"
    elif found.scheme == "unix":
        if mistake := next(_path_mistake(path, found.netloc + found.path), None):
            yield mistake
        elif wrong or not found.path.startswith("/") or host:
            yield f"{path}: expected unix:///path"
    elif wrong or found.scheme not in ("redis", "rediss") or not host or port == 0 or not _is_database(database):
        yield f"{path}: expected redis://host:port, rediss://host:port or unix:///path"


def _is_database(text: str) -> bool:
    return re.fullmatch("[0-9]*", text) is not None


def _backend_mistakes(path: str, backend: dict[str, Any]) -> Iterator[str]:
    dialect = backend.get("dialect")
    for key in ("credential", "proxy_credential"):
        yield from _credential_mistakes(f"{path}.{key}", backend.get(key))
    yield from _tls_mistakes(f"{path}.tls", _object(backend.get("tls")))
    for program in ("copilot", "launch"):
        yield from _path_mistake(f"{path}.{program}.command", _object(backend.get(program)).get("command"))
    copilot = _object(backend.get("copilot"))
    if copilot.get("provider") is not None and copilot.get("protocol") != "sdk":
        yield f'{path}.copilot.provider: without effect where copilot.protocol is not "sdk"'
    if dialect not in DIALECTS:
        return
    for key, dialects in _DIALECTS_OF.items():
        if backend.get(key) and dialect not in dialects:  # null and an empty object set nothing
            only = "HTTP dialects" if dialects is HTTP_DIALECTS else ", ".join(dialects)
            yield f"{path}.{key}: without effect on a backend of the dialect {dialect}, only on {only}"
    yield from _cache_mistakes(f"{path}.cache", _object(backend.get("cache")), dialect, backend.get("endpoint"))
    if dialect in HTTP_DIALECTS:
        yield from _endpoint_mistakes(f"{path}.endpoint", backend.get("endpoint"), dialect)
        yield from _connection_mistakes(path, backend)
        for name in _object(backend.get("headers")):
            if name.lower() in _FRAMING_HEADERS:
                yield f"{path}.headers.{name}: frames the request's body, which the gateway does itself"


def _cache_mistakes(path: str, cache: dict[str, Any], dialect: str, endpoint: Any) -> Iterator[str]:
    """A key or a long retention where no provider has a place for it."""
    openai = dialect in ("openai_compatible", "openai_responses") and isinstance(endpoint, str) and is_openai(endpoint)
    if cache.get("key") is not None and not openai:
        yield f"{path}.key: without effect on this backend; only OpenAI and Azure have a place for it"
    if cache.get("retention") == "long" and not openai and dialect != "anthropic":
        yield f'{path}.retention: "long" is without effect on this backend; only anthropic, OpenAI and Azure have it'


# --- texts that stand for something ----------------------------------------------------------------------------------


def _endpoint_mistakes(path: str, endpoint: Any, dialect: str) -> Iterator[str]:
    if endpoint is None:
        yield f"{path}: missing, but required by {dialect}"
    elif isinstance(endpoint, str):
        if re.match(r"https?://[^/?#]*@", endpoint):
            yield f"{path}: holds a user name or password; use `credential`"
        elif endpoint.startswith("unix:") and (mistake := next(_path_mistake(path, endpoint[5:]), None)):
            yield mistake
        elif not _is_endpoint(endpoint):
            yield f"{path}: expected http://…, https://… or unix:/path"


def _connection_mistakes(path: str, backend: dict[str, Any]) -> Iterator[str]:
    """`proxy` and `tls`."""
    endpoint, proxy, tls = backend.get("endpoint"), backend.get("proxy"), _object(backend.get("tls"))
    unix = isinstance(endpoint, str) and endpoint.startswith("unix:")
    if isinstance(proxy, str):
        if "@" in proxy:  # wherever it stands: the message for anything else repeats the text
            yield f"{path}.proxy: holds a user name or password; use `proxy_credential`"
        elif not re.fullmatch(r"http://[^/?#\s]+/?", proxy) or not _is_endpoint(proxy):
            yield f"{path}.proxy: found {shown(proxy)}, expected http://host:port"
        elif unix:
            yield f"{path}.proxy: without effect where the endpoint is a Unix socket"
    elif backend.get("proxy_credential") is not None:
        yield f"{path}.proxy_credential: without effect, there is no proxy"
    if tls and isinstance(endpoint, str) and not endpoint.startswith("https:"):
        yield f"{path}.tls: without effect where the endpoint is not https:"
    if tls.get("key_file") is not None and tls.get("cert_file") is None:
        yield f"{path}.tls.key_file: without effect, there is no cert_file"


def _is_endpoint(text: str) -> bool:
    if not re.match("https?://|unix:/", text) or re.search(r"[\s\x00-\x1f\x7f]", text):
        return False
    try:
        url = urlsplit(text)
        return text.startswith("unix:/") or (_is_host(url.netloc) and url.port != 0)
    except ValueError:  # a port that is no number, a bracket that is not closed
        return False


def _is_host(netloc: str) -> bool:
    """Whether a name or an address stands before the port: one in brackets is IPv6, and a name has no character that
    RFC 3986 wants escaped, for no host has one.
    """
    if netloc.startswith("["):
        return _is_ipv6(netloc[1:].partition("]")[0])
    return re.match(r"""[^:"%<>\\^`{|}]+(?::|$)""", netloc) is not None


def _is_ipv6(text: str) -> bool:
    from ipaddress import IPv6Address  # only configurations with such an address pay for the import

    try:
        return bool(IPv6Address(text).packed)
    except ValueError:
        return False


def _path_mistake(path: str, text: Any) -> Iterator[str]:
    """A shell would expand these; here they would be the name of a file or folder."""
    if not isinstance(text, str):
        return
    if text.startswith("~"):
        yield f"{path}: begins with ~, which is not expanded here; write the whole path"
    elif found := re.search(r"\$(?:[A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*\})", text):
        yield f"{path}: holds {found[0][:40]}, and variables are not expanded here; write the whole path"


def _credential_mistakes(path: str, credential: Any) -> Iterator[str]:
    """The paths in a credential: its file, or its program."""
    credential = _object(credential)
    yield from _path_mistake(f"{path}.path", credential.get("path"))
    command = _list(credential.get("command"))
    yield from _path_mistake(f"{path}.command[0]", command[0] if command else None)


def _tls_mistakes(path: str, tls: dict[str, Any]) -> Iterator[str]:
    for name, file in tls.items():
        if isinstance(file, str) and "-----BEGIN" in file:  # a key, perhaps, which no message may repeat
            yield f"{path}.{name}: holds PEM, expected the path of a file with it"
        else:
            yield from _path_mistake(f"{path}.{name}", file)


def _collector_mistake(endpoint: Any) -> Iterator[str]:
    """Of `otlp.endpoint`; it is never repeated, for a password may stand in it."""
    if isinstance(endpoint, str) and endpoint and (endpoint.startswith("unix:") or not _is_endpoint(endpoint)):
        yield "telemetry.otlp.endpoint: expected http://… or https://…"


def _metrics_mistakes(metrics: Any, socket_path: Any) -> Iterator[str]:
    path, mode = "telemetry.metrics", None
    if isinstance(metrics, dict):
        path, mode, metrics = f"{path}.listen", metrics.get("socket_mode"), metrics.get("listen")
    if not isinstance(metrics, str) or not metrics:
        return
    if "/" in metrics and "://" not in metrics:
        if "\0" in metrics:
            yield f"{path}: found {shown(metrics)}, expected a path without a null character"
        if isinstance(socket_path, str) and normpath(metrics.removeprefix("unix:")) == normpath(socket_path):
            yield f"{path}: found {shown(metrics)}, which is socket_path; each socket needs a path of its own"
        yield from _path_mistake(path, metrics.removeprefix("unix:"))
    elif not _is_host_and_port(metrics):
        yield (
            f"{path}: found {shown(metrics)}, expected HOST:PORT, as 127.0.0.1:9464 or [::1]:9464, or the path of a "
            "Unix socket, with a slash"
        )
    elif mode is not None:
        yield f"telemetry.metrics.socket_mode: without effect on {shown(metrics)}, only on a Unix socket"


def _is_host_and_port(text: str) -> bool:
    found = re.fullmatch(r"(?:([^\s:/\[\]]+)|\[([0-9A-Fa-f:.]+)\]):([0-9]{1,5})", text)
    if found is None or int(found[3]) > 65535:
        return False
    return _is_name(found[1]) if found[2] is None else _is_ipv6(found[2])


def _is_name(text: str) -> bool:
    """Whether a host may have this name: what cannot be encoded for the DNS can be looked up nowhere."""
    try:
        text.encode("idna")
    except UnicodeError:  # an empty part between dots, one of more than 63 characters, a control character
        return False
    return "\0" not in text
