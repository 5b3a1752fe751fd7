"""What is wrong with a configuration: every mistake at once, each with its path, and no secret among the words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.config.loading import ConfigError, ConfigUnreadable, load_config
from beluna_gateway.config.mistakes import excerpt
from beluna_gateway.config.settings import DIALECTS, BackendSettings

from ..fakes.config import backend, config, load

COPILOT = {"dialect": "github_copilot_sdk", "endpoint": ...}
MODELS = [{"id": "m", "aliases": ["x"]}]


def mistakes(tmp_path: Path, content: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, content)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'beluna.jsonc'} is not a valid configuration:\n")
    assert all(f"  {mistake}" in text.splitlines() for mistake in caught.value.mistakes)
    return list(caught.value.mistakes)


def test_all_mistakes_are_told_at_once(tmp_path: Path):
    """Each mistake has its path, what was found and what was expected, those between keys included."""
    wrong = config(
        backend(dialect="ollame", default_model="", typo=1),
        backend(id="b", endpoint=..., credential={"type": "env", "env": "X"}),
        7,
        gateway={"default_backend": "c", "reliability": {"max_retries": 1.0, "idle_timeout_ms": True}},
        server={"socket_mode": "777", "allowed_uids": [-1]},
        telemetry={"metrics": {"listn": "x"}},
    )

    assert sorted(mistakes(tmp_path, wrong)) == sorted(
        [
            (
                "ai_gateway.backends[0].dialect: found 'ollame', expected 'openai_compatible', 'openai_responses', "
                "'anthropic', 'gemini', 'ollama' or 'github_copilot_sdk'"
            ),
            "ai_gateway.backends[0].default_model: found '', expected at least 1 character",
            "ai_gateway.backends[0].typo: unknown key",
            "ai_gateway.backends[1].credential.var: missing, but required",
            "ai_gateway.backends[1].credential.env: unknown key",
            "ai_gateway.backends[2]: found 7, expected an object",
            "ai_gateway.reliability.max_retries: found 1.0, expected an integer",
            "ai_gateway.reliability.idle_timeout_ms: found true, expected an integer",
            "server.socket_mode: found '777', expected a string that matches ^0[0-7]{3}$",
            "server.allowed_uids[0]: found -1, expected at least 0",
            "telemetry.metrics.listen: missing, but required",
            "telemetry.metrics.listn: unknown key; did you mean 'listen'?",
            "telemetry.metrics: found an object, expected a string",
            "ai_gateway.backends[1].id: found 'b' again, first at ai_gateway.backends[0]; ids are unique",
            "ai_gateway.backends[1].endpoint: missing, but required by ollama",
            "ai_gateway.default_backend: found 'c', expected the id of a backend: 'b'",
        ]
    )


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_file_is_called_empty(tmp_path: Path, text: str):
    """With what writes one that is not."""
    with pytest.raises(ConfigError, match="the file: empty, expected an object; `beluna-gateway init"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{\n  // é is one character\n  "a": 1\n  "b": 2\n}', "line 4, column 3: not JSON5 (this character may not"),
        ('{\n  "é": "x" y\n}', "line 2, column 12: not JSON5 (this character may not"),
        ('{\n  "a": "not closed\n', "line 2, column 8: not JSON5 (the file ends too early"),
        ("{} x", "line 1, column 4: not JSON5 (something stands after"),
        ("{}\n\n }", "line 3, column 2: not JSON5 (something stands after"),
        ("// nothing\n", "line 1, column 1: not JSON5 (the file ends too early"),
        ("{a: 0x}", "line 1, column 5: not JSON5 (a number that cannot be read"),
        ("[" * 100_000, "not JSON5 (nested too deeply"),
        ('{"token": "sk-secret\\ud800"}', "line 1"),
        ("{a: " + "9" * 5000 + "}", "not JSON5 (a number that cannot be read"),
    ],
    ids=lambda value: value[:20],
)
def test_a_syntax_error_has_line_and_column(tmp_path: Path, text: str, expected: str):
    """Where the file stops being JSON5, in lines and characters; its content is not repeated."""
    (mistake,) = mistakes(tmp_path, text)

    assert expected in mistake
    assert "sk-secret" not in mistake


def test_a_file_that_is_no_utf8(tmp_path: Path):
    """Bytes that are no text are named, and not guessed to be another encoding."""
    assert mistakes(tmp_path, b'{"a": "\xe9"}') == ["not UTF-8: byte 7 is 0xe9"]
    assert mistakes(tmp_path, '{"a": 1}'.encode("utf-16")) == ["not UTF-8: byte 0 is 0xff"]


def test_a_file_that_cannot_be_read_is_another_matter(tmp_path: Path):
    """Missing, or a folder: not a wrong configuration but none."""
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ConfigUnreadable, match=str(path)):
            load_config(path)


def test_a_file_without_an_end_is_not_read_to_it(tmp_path: Path):
    """A device, or another file than was meant."""
    (tmp_path / "zeros").symlink_to("/dev/zero")

    with pytest.raises(ConfigError, match="the file: larger than 16777216 bytes"):
        load_config(tmp_path / "zeros")


@pytest.mark.parametrize("whole", ["null", "[]", '"text"', "7"])
def test_the_whole_file_is_an_object(tmp_path: Path, whole: str):
    """A valid JSON5 value that is no object is one plain mistake."""
    (mistake,) = mistakes(tmp_path, whole)

    assert mistake.endswith("expected an object")
    assert mistake.startswith("the file: found ")


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"endpoint": ""}, "endpoint: expected http"),
        ({"endpoint": "h:1"}, "endpoint: expected http"),
        ({"endpoint": "http://"}, "endpoint: expected http"),
        ({"endpoint": "http://h:x"}, "endpoint: expected http"),
        ({"endpoint": "http://h\n"}, "endpoint: expected http"),
        ({"endpoint": "http://[::1"}, "endpoint: expected http"),
        ({"endpoint": "ftp://h"}, "endpoint: expected http"),
        ({"endpoint": "http://user:sk-secret@h"}, "endpoint: holds a user name or password"),
        ({"dialect": []}, "dialect: found an array"),
        ({"dialect": "github_copilot_sdk"}, "endpoint: without effect on a backend of the dialect github_copilot_sdk"),
        ({**COPILOT, "launch": {"command": "x"}}, "launch: without effect"),
        ({**COPILOT, "headers": {"X-A": "1"}}, "headers: without effect"),
        ({**COPILOT, "anthropic": {"default_max_tokens": 5}}, "anthropic: without effect"),
        ({**COPILOT, "copilot": {"command": "x", "provider": {"base_url": "u"}}}, "copilot.provider: without effect"),
        (
            {**COPILOT, "copilot": {"command": "x", "protocol": "language_server", "provider": {"base_url": "u"}}},
            'copilot.provider: without effect where copilot.protocol is not "sdk"',
        ),
        ({"copilot": {"command": "x"}}, "copilot: without effect on a backend of the dialect ollama, only on github_"),
        ({"anthropic": {"default_max_tokens": 5}}, "anthropic: without effect on a backend of the dialect ollama"),
        ({"openai_compatible": {"stream_usage": True}}, "openai_compatible: without effect"),
        (
            {"dialect": "openai_responses", "openai_compatible": {"thinking": None}},
            "openai_compatible: without effect on a backend of the dialect openai_responses, only on openai_compatible",
        ),
        ({"cache": {"key": "k"}}, "cache.key: without effect on this backend; only OpenAI and Azure"),
        ({"cache": {"retention": "long"}}, 'cache.retention: "long" is without effect on this backend'),
        ({"dialect": "anthropic", "cache": {"key": "k"}}, "cache.key: without effect"),
        ({"dialect": "openai_responses", "cache": {"key": "k"}}, "cache.key: without effect"),
        ({**COPILOT, "cache": {"retention": "long"}}, "cache.retention"),
        ({"cache": {"mode": "on"}}, "cache.mode: found 'on'"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "headers.Transfer-Encoding: frames the request"),
        ({"default_model": ...}, "default_model: missing, but required where there are no models"),
        ({"default_model": None, "models": None}, "default_model: missing, but required where there are no models"),
        ({"models": []}, "models: found an array, expected at least 1 item"),
        ({"models": [{"id": ""}]}, "models[0].id: found '', expected at least 1 character"),
        ({"models": [{"id": " "}]}, "models[0].id: found ' ', expected a name"),
        ({"models": [{"id": "a"}, {"id": "a"}]}, "models[1].id: found 'a' again"),
        ({"models": [{"id": "a", "aliases": ["x", ""]}]}, "models[0].aliases[1]: found '', expected at least 1"),
        ({"models": [{"id": "a", "aliases": ["\t "]}]}, "models[0].aliases[0]: found '\\t ', expected a name"),
        ({"models": [{"id": "a", "aliases": "x"}]}, "models[0].aliases: found 'x', expected an array"),
        ({"models": [{"id": "a", "alias": []}]}, "models[0].alias: unknown key"),
        (
            {"models": [{"id": "a", "aliases": ["x"]}, {"id": "b", "aliases": [" x\n"]}]},
            "models[1].aliases[0]: found 'x' again, first at ai_gateway.backends[0].models[0].aliases[0]; aliases",
        ),
        ({"credential": {"type": "file", "path": "~/key"}}, "credential.path: begins with ~, which is not expanded"),
        ({"credential": {"type": "file", "path": "/a/${HOME}/b"}}, "credential.path: holds ${HOME}, and variables are"),
        ({"credential": {"type": "command", "command": ["~/bin/key"]}}, "credential.command[0]: begins with ~"),
        ({"credential": {"type": "command", "command": ["x"], "ttl_ms": 0}}, "credential.ttl_ms: expected at least 1"),
        (
            {"credential": {"type": "vault"}},
            "credential: unknown `type`; expected one of 'none', 'env', 'inline_token'",
        ),
        (
            {"proxy": "http://p:1", "proxy_credential": {"type": "command", "command": ["$BIN/key"]}},
            "proxy_credential.command[0]: holds $BIN, and variables are not",
        ),
        ({"proxy": "h:1"}, "proxy: found 'h:1', expected http://host:port"),
        ({"launch": {"command": "~/bin/server"}}, "launch.command: begins with ~"),
        ({"launch": {"command": "$HOME/bin/server"}}, "launch.command: holds $HOME"),
        ({**COPILOT, "copilot": {"command": "~user/c"}}, "copilot.command: begins with ~"),
        ({"endpoint": "unix:/run/$USER/a.sock"}, "endpoint: holds $USER"),
        ({"endpoint": "unix:~/a.sock"}, "endpoint: begins with ~, which is not expanded here"),
        ({"endpoint": "unix:$RUN/a.sock"}, "endpoint: holds $RUN"),
        ({"endpoint": "http://h\\x"}, "endpoint: expected http"),
        ({"endpoint": "http://a%20b"}, "endpoint: expected http"),
        ({"endpoint": "http://[v1.x]"}, "endpoint: expected http"),
        ({"endpoint": "http://:80"}, "endpoint: expected http"),
        ({"headers": {"X-A:": "1"}}, "headers.X-A:: expected a string that matches"),
        ({"headers": {"X-A": "1\r\nX-B: 2"}}, "headers.X-A: expected a string that matches"),
        ({"headers": {"Content-length": "5"}}, "headers.Content-length: frames the request"),
        ({"pricing": {"m": {"input_per_mtok": -1, "output_per_mtok": 1}}}, "pricing.m.input_per_mtok: found -1"),
        ({"capabilities": {"vision": None}}, "capabilities.vision: found null, expected true or false"),
        ({"capabilities": {"vision": 1}}, "capabilities.vision: found 1, expected true or false"),
        ({"reliability": {"request_timeout_ms": 2**64}}, "reliability.request_timeout_ms: found 18446744073709551616"),
        ({"reliability": {"request_timeout_ms": 10**400}}, "reliability.request_timeout_ms: found a very large number"),
        ({"reliability": {"request_timeout_ms": 0}}, "reliability.request_timeout_ms: found 0, expected at least 1"),
        ({"budget": {"rate_smoothing_per_second": 0}}, "budget.rate_smoothing_per_second: found 0"),
        ({"credential": {"type": "file", "path": "a\0b"}}, "credential.path: expected"),
    ],
    ids=str,
)
def test_one_mistake_in_a_backend(tmp_path: Path, keys: dict[str, Any], named: str):
    """Each of these is one mistake, at its place."""
    (mistake,) = mistakes(tmp_path, config(backend(**keys)))

    assert mistake.startswith(f"ai_gateway.backends[0].{named}")


@pytest.mark.parametrize(
    ("whole", "expected"),
    [
        (
            config(socket_path="~/a.sock"),
            "socket_path: begins with ~, which is not expanded here",
        ),
        (config(socket_path="run/$X/a.sock"), "socket_path: holds $X, and variables are not expanded here"),
        (config(telemetry={"metrics": "~/m.sock"}), "telemetry.metrics: begins with ~"),
        (
            config(telemetry={"metrics": {"listen": "127.0.0.1:1", "socket_mode": "0660"}}),
            "telemetry.metrics.socket_mode: without effect on '127.0.0.1:1'",
        ),
        (config(telemetry={"metrics": {"listen": "unix:$RUN/m.sock"}}), "telemetry.metrics.listen: holds $RUN"),
        (
            config(socket_path="run/b.sock", telemetry={"metrics": "unix:./run//b.sock"}),
            "telemetry.metrics: found 'unix:./run//b.sock', which is socket_path; each socket needs a path of its own",
        ),
        (config(telemetry={"metrics": "run/\0.sock"}), "telemetry.metrics: found 'run/\\x00.sock', expected a path"),
        (config(telemetry={"otlp": {"endpoint": "collector:4318"}}), "telemetry.otlp.endpoint: expected http://… or"),
        (config(telemetry={"otlp": {"endpoint": "http://h:99999"}}), "telemetry.otlp.endpoint: expected http://… or"),
        (
            config(gateway={"shared": {"url": "unix://$HOME/valkey.sock"}}),
            "ai_gateway.shared.url: holds $HOME, and variables are not expanded here",
        ),
        (
            config(gateway={"shared": {"url": "redis://h", "credential": {"type": "command", "command": ["~/k"]}}}),
            "ai_gateway.shared.credential.command[0]: begins with ~",
        ),
        (config(gateway={"default_backend": ...}), "ai_gateway.default_backend: missing, but required where no model"),
        (config(gateway={"default_backend": None}), "ai_gateway.default_backend: missing, but required where no model"),
        (config(gateway={"chat": 5}), "ai_gateway.chat: found 5, expected an object"),
        (config(logging="x"), "logging: found 'x', expected an object"),
        (config(organs={}), "organs: unknown key"),
        (config(gateway={"resilience": {"max_retry": 1}}), "ai_gateway.resilience.max_retry: unknown key"),
        (
            config(gateway={"resilience": {"max_retries": 1}, "reliability": {"max_retries": 1}}),
            "ai_gateway.resilience.max_retries: given twice, also as ai_gateway.reliability.max_retries",
        ),
        (
            config(gateway={"resilience": {"max_request_time_ms": 1}, "budget": {"max_request_time_ms": 2}}),
            "ai_gateway.resilience.max_request_time_ms: given twice, also as ai_gateway.budget.max_request_time_ms",
        ),
        (
            config(
                backend(models=MODELS),
                backend(id="c", models=[{"id": "m", "aliases": ["x "]}]),
            ),
            "ai_gateway.backends[1].models[0].aliases[0]: found 'x' again, first at ai_gateway.backends[0].models[0]",
        ),
    ],
    ids=str,
)
def test_one_mistake_elsewhere(tmp_path: Path, whole: dict[str, Any], expected: str):
    """Each of these is one mistake, at its place."""
    gateway = {key: value for key, value in whole["ai_gateway"].items() if value is not ...}
    (mistake,) = mistakes(tmp_path, {**whole, "ai_gateway": gateway})

    assert mistake.startswith(expected)


@pytest.mark.parametrize("short", [True, False], ids=["short", "listen"])
@pytest.mark.parametrize(
    ("listen", "right"),
    [
        ("127.0.0.1:9464", True),
        ("localhost:0", True),
        ("[::1]:9464", True),
        ("[fe80::A:0:f]:65535", True),
        ("run/metrics.sock", True),
        ("./m", True),
        ("/run/a:1", True),
        ("unix:/run/m.sock", True),
        (":9464", False),
        ("9464", False),
        ("127.0.0.1", False),
        ("127.0.0.1:", False),
        ("127.0.0.1:65536", False),
        ("127.0.0.1:x", False),
        ("127.0.0.1:٣", False),
        ("::1:9464", False),
        ("[]:9464", False),
        ("a b:1", False),
        ("metrics.sock", False),
        ("[::::]:1", False),
        ("[1.2.3.4]:1", False),
        ("a..b:1", False),
        ("a" * 64 + ".example:1", False),
        ("http://127.0.0.1:9464/metrics", False),
    ],
)
def test_where_metrics_are_served(tmp_path: Path, listen: str, right: bool, short: bool):
    """A host and a port, or a path with a slash; anything else is a mistake, for it would be neither."""
    content = config(telemetry={"metrics": listen if short else {"listen": listen}})
    if right:
        load(tmp_path, content)
        return
    (mistake,) = mistakes(tmp_path, content)

    path = "telemetry.metrics" if short else "telemetry.metrics.listen"
    found = listen if len(listen) <= 40 else listen[:40] + "…"
    assert mistake.startswith(f"{path}: found '{found}', expected HOST:PORT, as 127.0.0.1:9464 or [::1]:9464, or the")


def test_what_only_looks_like_a_variable(tmp_path: Path):
    """A dollar or a tilde that a shell would leave alone is part of a name."""
    for path in ("a$/b", "a~", "/x/$1", "$", "${", "a${}b", "/~x"):
        assert load(tmp_path, config(socket_path=path)).socket_path == path


@pytest.mark.parametrize(
    "keys",
    [
        {"cache": {"mode": "auto", "key": None, "retention": "short"}},
        {"cache": {"mode": "off"}},
        {"dialect": "anthropic", "cache": {"retention": "long"}},
        {"dialect": "openai_responses", "endpoint": "https://api.openai.com/v1", "cache": {"key": "k"}},
        {
            "dialect": "openai_compatible",
            "endpoint": "https://x.openai.azure.com/openai/v1",
            "cache": {"key": "k", "retention": "long"},
        },
    ],
)
def test_a_cache_may_be_configured_where_the_provider_has_a_place(tmp_path: Path, keys: dict[str, Any]):
    """`auto`, `off` and `short` on every backend; a key and a long retention where they mean something."""
    load(tmp_path, config(backend(**keys)))


def test_settings_that_say_nothing_may_stand_anywhere(tmp_path: Path):
    """Null and an empty object set nothing."""
    copilot = backend(**COPILOT, id="c", launch=None, headers={}, anthropic={}, openai_compatible={})
    copilot["endpoint"] = None

    load(tmp_path, config(backend(anthropic={}, openai_compatible={}, copilot=None), copilot))


CANARY = "sk-canary-0123456789"
CREDENTIALS: list[Any] = [
    CANARY,
    [CANARY],
    {"type": CANARY},
    {"token": CANARY},
    {"type": "inline_token", "token": [CANARY]},
    {"type": "inline_token", "token": CANARY, "path": CANARY},
    {"type": "env", "var": {"x": CANARY}},
    {"type": "file", "path": [CANARY], CANARY[:2]: CANARY},
]


@pytest.mark.parametrize("credential", CREDENTIALS, ids=str)
def test_no_message_prints_a_token(tmp_path: Path, credential: Any):
    """Whatever is wrong with a credential, and wherever else a secret stands by mistake, it is not repeated."""
    wrong = backend(
        credential=credential,
        endpoint=f"http://user:{CANARY}@h",
        headers={"Authorization": [CANARY], "X-Api-Key": f"{CANARY}\n"},
        copilot={"command": "x", "args": CANARY, "provider": {"base_url": 5, "type": CANARY}},
        launch={"command": "x", "env": {"KEY": [CANARY]}},
        api_key=CANARY,
    )
    found = mistakes(tmp_path, config(wrong, telemetry={"otlp": f"http://user:{CANARY}@h"}))

    assert len(found) >= 8
    assert not [mistake for mistake in found if CANARY in mistake]


@pytest.mark.parametrize(
    "keys",
    [
        {"proxy": f"user:{CANARY}@proxy:3128"},
        {"proxy": f"HTTP://user:{CANARY}@proxy:3128"},
        {"proxy": "http://proxy:3128", "proxy_credential": f"user:{CANARY}"},
        {"proxy": "http://proxy:3128", "proxy_credential": {"type": "command", "command": f"echo user:{CANARY}"}},
        {"launch": f"server --api-key {CANARY}"},
        {**COPILOT, "copilot": f"copilot --token {CANARY}"},
        {"endpoint": "https://h", "tls": {"cert_file": "c.pem", "key_file": f"-----BEGIN PRIVATE KEY-----\n{CANARY}"}},
    ],
    ids=str,
)
def test_no_message_prints_what_may_be_one(tmp_path: Path, keys: dict[str, Any]):
    """A secret in the place of a proxy, a command line, or a key's file is not repeated."""
    (mistake,) = mistakes(tmp_path, config(backend(**keys)))

    assert CANARY not in mistake


def test_a_token_is_hidden_in_repr(tmp_path: Path):
    """A configuration that turns up in a traceback does not give its token away."""
    loaded = load(tmp_path, config(backend(credential={"type": "inline_token", "token": CANARY})))

    assert CANARY not in repr(loaded)


_keys = st.sampled_from([*BackendSettings.model_fields, "ai_gateway", "backends", "default_backend", "type"])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(DIALECTS),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=5),
        max_leaves=20,
    )
)
def test_whatever_stands_in_the_file_its_mistakes_are_told(tmp_path_factory: pytest.TempPathFactory, content: Any):
    """Any JSON5 that is no configuration, as a whole or as a backend, is refused in words and by nothing else."""
    folder = tmp_path_factory.getbasetemp()
    with pytest.raises(ConfigError):
        load(folder, json.dumps(content))
    with pytest.raises(ConfigError):
        load(folder, json.dumps({"ai_gateway": {"default_backend": "b", "backends": [content, backend(x=content)]}}))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (config(sever={}), "sever: unknown key; did you mean 'server'?"),
        (config(backend(defaultModel="m")), "backends[0].defaultModel: unknown key; did you mean 'default_model'?"),
        (
            config(backend(credential={"type": "env", "var": "V", "vars": 1})),
            "credential.vars: unknown key; did you mean 'var'",
        ),
        (
            config(backend(credential={"type": "command", "command": ["x"], "timeout": 1})),
            "credential.timeout: unknown key; did you mean 'timeout_ms'?",
        ),
        (
            config(backend(proxy="http://p:1", proxy_credential={"type": "command", "command": ["x"], "ttl": 1})),
            "proxy_credential.ttl: unknown key; did you mean 'ttl_ms'?",
        ),
        (
            config(backend(pricing={"m": {"input_mtok": 1}})),
            "m.input_mtok: unknown key; did you mean 'input_per_mtok'?",
        ),
        (config(backend(models=[{"id": "m", "alias": []}])), "models[0].alias: unknown key; did you mean 'aliases'?"),
        (config(telemetry={"otlp": {"end-point": "x"}}), "otlp.end-point: unknown key; did you mean 'endpoint'?"),
        (config(zzz=1), "zzz: unknown key"),
        (config(backend(credential={"type": "none", "token": "x"})), "backends[0].credential.token: unknown key"),
        ({**config(), "x" * 100_000: 1}, "unknown key"),
    ],
    ids=lambda value: value[-30:] if isinstance(value, str) else "",
)
def test_an_unknown_key_that_looks_like_one(tmp_path: Path, content: Any, told: str):
    """The key that was probably meant is named: one that is allowed in that place, and none where none is alike."""
    found = [mistake for mistake in mistakes(tmp_path, content) if "unknown key" in mistake]

    assert len(found) == 1
    assert told in found[0]
    assert ("did you mean" in told) or found[0].endswith("unknown key")


def test_a_syntax_error_is_shown_in_its_line(tmp_path: Path):
    """The line with a caret below the place, as the file has it but for tabs."""
    text = '{\n\t"ai_gateway": {"default_backend": null "backends": []}\n}'
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)

    _, mistake, line, caret = str(caught.value).splitlines()
    assert "line 2, column 41" in mistake
    assert line == '     "ai_gateway": {"default_backend": null "backends": []}'
    assert line[caret.index("^") :] == '"backends": []}'


_JSON_TEXTS = st.text(alphabet="{}[]:,\"'/* \tabé1_-.漢\u202e", max_size=300)


@given(_JSON_TEXTS, st.integers(1, 301))
def test_the_line_of_a_syntax_error_shows_no_text_but_keys(line: str, column: int):
    """Which text is a secret is not known there: only words that are keys are shown. The caret stands in the line."""
    shown, caret = excerpt(f'{line}"token": sk-secret', column).split("\n")

    assert not set(shown.replace("token", "")) - set("{}[]:,\"'/* ·")
    assert len(shown) <= 110
    assert 2 <= caret.index("^") <= 110


CORE = {"name": "core", "uids": [1000]}


@pytest.mark.parametrize(
    ("server", "mistake"),
    [
        (
            {"clients": [CORE, {"name": "core", "uids": [1]}]},
            "server.clients[1].name: found 'core' again, first at server.clients[0]; names of clients are unique",
        ),
        ({"clients": [{"name": " ", "uids": [1]}]}, "server.clients[0].name: found ' ', expected a name"),
        (
            {"clients": [CORE, {"name": "notes", "uids": [1, 1000]}]},
            "server.clients[1].uids[1]: found 1000 again, first at server.clients[0].uids[0]; a uid belongs to one",
        ),
        (
            {"clients": [{"name": "core", "uids": [7, 7]}]},
            "server.clients[0].uids[1]: found 7 again, first at server.clients[0].uids[0]; a uid belongs to one client",
        ),
        (
            {"clients": [{**CORE, "backends": ["b", "c"]}]},
            "server.clients[0].backends[1]: found 'c', expected the id of a backend: 'b'",
        ),
        (
            {"clients": [CORE], "allowed_uids": [1]},
            "server.clients[0].uids[0]: 1000 is not in server.allowed_uids, so this client could not connect",
        ),
        ({"clients": []}, "server.clients: found an array, expected at least 1 item"),
        (
            {"clients": [{"name": "core", "uids": []}]},
            "server.clients[0].uids: found an array, expected at least 1 item",
        ),
        ({"clients": [{"name": "core"}]}, "server.clients[0].uids: missing, but required"),
        (
            {"clients": [{**CORE, "budget": {"max_concurrency": 1}}]},
            "server.clients[0].budget.max_concurrency: unknown key",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_clients(tmp_path: Path, server: Any, mistake: str):
    """Names and uids are unique, backends are configured, and no client is kept out by `allowed_uids`."""
    (found,) = mistakes(tmp_path, config(server=server))

    assert found.startswith(mistake)


@pytest.mark.parametrize(
    "server",
    [
        {"clients": [CORE, {"name": "notes", "uids": [1, 2], "backends": ["b"]}]},
        {"clients": [{**CORE, "backends": []}], "allowed_uids": [1000, 1]},
        {"clients": None},
    ],
    ids=str,
)
def test_clients_that_are_right(tmp_path: Path, server: Any):
    """No list, several clients, one that may only ask for `status`."""
    assert load(tmp_path, config(server=server)).server is not None


# --- shared limits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        ({}, "ai_gateway.shared: has neither `url` nor `sqlite`, expected one of them"),
        (
            {"url": "redis://r", "sqlite": "q.db"},
            "ai_gateway.shared: has `url` and `sqlite`, expected one of them",
        ),
        (
            {"url": "http://r"},
            "ai_gateway.shared.url: expected redis://host:port, rediss://host:port or unix:///path",
        ),
        (
            {"url": "redis://r:0"},
            "ai_gateway.shared.url: expected redis://host:port, rediss://host:port or unix:///path",
        ),
        (
            {"url": "redis://r/base"},
            "ai_gateway.shared.url: expected redis://host:port, rediss://host:port or unix:///path",
        ),
        ({"url": "redis://r:port"}, "ai_gateway.shared.url: cannot be read as a URL"),
        ({"url": "redis://u:hunter2@r"}, "ai_gateway.shared.url: holds a password; use `credential`"),
        ({"url": "redis://r?password=hunter2"}, "ai_gateway.shared.url: holds a password; use `credential`"),
        (
            {"url": "redis://r?health_check_interval=1"},
            (
                "ai_gateway.shared.url: holds settings after a question mark, which are not taken; only unix: has one, "
                "`?db=N`"
            ),
        ),
        ({"url": "unix://valkey.sock"}, "ai_gateway.shared.url: expected unix:///path"),
        ({"url": 7}, "ai_gateway.shared.url: expected a string"),
        (
            {"sqlite": "~/q.db"},
            "ai_gateway.shared.sqlite: begins with ~, which is not expanded here; write the whole path",
        ),
        (
            {"sqlite": "q.db", "credential": {"type": "env", "var": "X"}},
            "ai_gateway.shared.credential: without effect on a file, only with `url`",
        ),
        (
            {"sqlite": "q.db", "tls": {"ca_file": "x"}},
            "ai_gateway.shared.tls: without effect on a file, only with `url`",
        ),
        (
            {"url": "redis://r", "tls": {"ca_file": "x"}},
            "ai_gateway.shared.tls: without effect where the url is not rediss:",
        ),
        (
            {"url": "rediss://r", "tls": {"key_file": "x"}},
            "ai_gateway.shared.tls.key_file: without effect, there is no cert_file",
        ),
        (
            {"url": "rediss://r", "tls": {"ca_file": "missing.pem"}},
            "ai_gateway.shared.tls.ca_file: missing.pem cannot be read: No such file or directory",
        ),
        (
            {"sqlite": "q.db", "namespace": "a{b}"},
            "ai_gateway.shared.namespace: found 'a{b}', expected a string that matches ^[A-Za-z0-9_.:-]+$",
        ),
        (
            {"sqlite": "q.db", "on_failure": "ignore"},
            "ai_gateway.shared.on_failure: found 'ignore', expected 'refuse' or 'local'",
        ),
        ({"sqlite": "q.db", "lease": 5}, "ai_gateway.shared.lease: unknown key; did you mean 'lease_ms'?"),
    ],
)
def test_mistakes_in_the_store_of_shared_limits(tmp_path: Path, shared, expected):
    """Each is told by its path; a URL is never repeated, for it may hold a password."""
    found = mistakes(tmp_path, config(gateway={"shared": shared}))

    assert found == [expected]
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    "shared",
    [
        {"url": "redis://redis.example:6379/3"},
        {"url": "redis://gateway@[::1]:6379"},
        {"url": "rediss://redis.example"},
        {"url": "unix:///run/valkey.sock"},
        {"url": "unix://gateway@/run/valkey.sock?db=2"},
        {"sqlite": "/var/lib/beluna-gateway/quota.db"},
    ],
)
def test_stores_of_shared_limits(tmp_path: Path, shared):
    """What docs/configuration.md says is taken."""
    load(tmp_path, config(gateway={"shared": shared, "budget": {"shared_max_concurrency": 40}}))


def test_shared_limits_need_a_store(tmp_path: Path):
    """Wherever they stand; null sets none."""
    limit = {"shared_rate_per_second": 5, "shared_spend_usd_per_day": None}
    wrong = config(
        backend(budget=limit),
        gateway={"budget": limit, "resilience": {"shared_max_concurrency": 1}},
        server={"clients": [{"name": "a", "uids": [1], "budget": {"shared_spend_usd_per_month": 1}}]},
    )

    assert sorted(mistakes(tmp_path, wrong)) == [
        f"{path}: without effect where there is no ai_gateway.shared"
        for path in (
            "ai_gateway.backends[0].budget.shared_rate_per_second",
            "ai_gateway.budget.shared_rate_per_second",
            "ai_gateway.resilience.shared_max_concurrency",
            "server.clients[0].budget.shared_spend_usd_per_month",
        )
    ]
