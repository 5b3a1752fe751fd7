"""The commands as a person types them: what they print, where, and with which exit status."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import sys
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fakes.answers import CUT, answers, delta, fails, plays, silent, text
from tests.fakes.backend import Exchange
from tests.fakes.client import connected
from tests.fakes.commands import commands, run, start
from tests.fakes.daemon import clean_environment, daemon_process, make_config, write_config

__all__ = ["commands"]  # a fixture of each test here

pytestmark = pytest.mark.asyncio(loop_scope="module")

BACKENDS = {
    "b": {"default_model": "first-model"},
    "other": {"credential": {"type": "inline_token", "token": "canary-t"}},
    "thinker": {"openai_compatible": {"thinking": "reasoning_effort"}},
}


@pytest_asyncio.fixture(loop_scope="module")
async def config(stage):
    """The path of the running daemon's configuration."""
    return stage.daemon.config_path


# --- ask ---


async def test_ask_prints_the_answer(stage, config):
    """The text and a line end to stdout, nothing to stderr, status 0."""
    stage.backend.on("b", text("Hel", "lo é"))

    outcome = await run("ask", "--config", config, "how are you?")

    assert (outcome.status, outcome.out, outcome.err) == (0, "Hello é\n", "")
    body = stage.backend.requests("b")[0].json()
    assert body["messages"] == [{"role": "user", "content": "how are you?"}]
    assert body["model"] == "first-model"


async def test_ask_with_everything(stage, config):
    """`--backend`, `--model` and `--system` reach the backend."""
    stage.backend.on("other", text("x"))

    outcome = await run("--config", config, "ask", "hi", "--backend", "other", "--model", "m2", "--system", "be brief")

    assert outcome.status == 0
    body = stage.backend.requests("other")[0].json()
    assert body["model"] == "m2"
    assert body["messages"][0] == {"role": "system", "content": "be brief"}


async def test_ask_with_files_and_effort(stage, config, tmp_path):
    """`--file` stands before the question, an image as one; `--effort` is the request's `reasoning.effort`."""
    stage.backend.on("thinker", text("x"))
    (tmp_path / "cat.png").write_bytes(b"png")
    (tmp_path / "paper.pdf").write_bytes(b"pdf")

    outcome = await run(
        *("ask", "--config", config, "--backend", "thinker", "--effort", "high", "what is this?"),
        *("--file", tmp_path / "cat.png", "--file", tmp_path / "paper.pdf"),
    )

    assert (outcome.status, outcome.err) == (0, "")
    body = stage.backend.requests("thinker")[0].json()
    assert body["reasoning_effort"] == "high"
    image, file, question = body["messages"][0]["content"]
    assert image["image_url"]["url"] == "data:image/png;base64,cG5n"
    assert file["file"] == {"filename": "paper.pdf", "file_data": "data:application/pdf;base64,cGRm"}
    assert question["text"] == "what is this?"


@pytest.mark.parametrize(("name", "told"), [("nobody.png", "No such file"), ("paper", "give it an ending")])
async def test_ask_with_a_file_of_no_use(config, tmp_path, name, told):
    """The file is named, and nobody is asked."""
    (tmp_path / "paper").write_bytes(b"?")

    outcome = await run("ask", "--config", config, "--file", tmp_path / name, "hi")

    assert (outcome.status, outcome.out) == (66, "")
    assert name in outcome.err
    assert told in outcome.err


async def test_models(stage, config):
    """One name a line; with `--json` the frame; a backend that refuses is told."""
    listed = answers(200, {"data": [{"id": "small", "owned_by": "us"}, {"id": "large"}]})
    stage.backend.on("b", listed, listed, fails(401, message="no"))

    outcome = await run("models", "--config", config)
    assert (outcome.status, outcome.out, outcome.err) == (0, "small\nlarge\n", "")
    outcome = await run("models", "--config", config, "--backend", "b", "--json")
    assert json.loads(outcome.out)["models"] == [{"id": "small", "owned_by": "us"}, {"id": "large"}]
    outcome = await run("models", "--config", config)
    assert (outcome.status, outcome.out) == (1, "")
    assert "authentication" in outcome.err


@pytest.mark.parametrize("arguments", [[], ["-"]])
async def test_ask_reads_stdin(stage, config, arguments):
    """Without a question, or with `-`, it is what comes from stdin."""
    stage.backend.on("b", text("x"))

    assert (await run("ask", "--config", config, *arguments, stdin=b"from a pipe")).status == 0
    assert stage.backend.requests("b")[0].json()["messages"][0]["content"] == "from a pipe"


async def test_ask_json_prints_the_frames(stage, config):
    """One frame a line, as they come."""
    stage.backend.on("b", text("x"))

    outcome = await run("ask", "--json", "--config", config, "hi")

    frames = [json.loads(line) for line in outcome.out.splitlines()]
    assert [frame["type"] for frame in frames] == ["started", "output_text_delta", "usage", "completed"]


async def test_ask_streams(stage, config):
    """The first words are there while the rest has not come."""
    stage.backend.on("b", plays(delta("first"), 600.0))
    process = await start("ask", "--config", config, "hi")
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert await process.stdout.readexactly(5) == b"first"
    exchange = await stage.backend.request("b")
    process.kill()
    await process.communicate()
    await exchange.closed()


@pytest.mark.parametrize(
    ("script", "told"),
    [(fails(401, "bad_key", "no such key"), "authentication"), (plays(delta("some"), CUT), "backend_transient")],
    ids=["refused", "cut"],
)
async def test_ask_that_fails(stage, config, script, told):
    """Status 1, the kind and the message to stderr, what came before to stdout."""
    stage.backend.on("b", script)

    outcome = await run("ask", "--config", config, "hi")

    assert outcome.status == 1
    assert told in outcome.err
    assert outcome.out.strip() in ("", "some")


async def test_ask_a_backend_that_is_not_there(stage, config):
    """The daemon's refusal is told."""
    outcome = await run("ask", "--config", config, "--backend", "nobody", "hi")

    assert (outcome.status, outcome.out) == (1, "")
    assert "nobody" in outcome.err


async def test_ask_interrupted(stage, config):
    """Ctrl-C ends it, without a traceback, and the backend is let go."""
    stage.backend.on("b", silent)
    process = await start("ask", "--config", config, "hi")
    exchange = await stage.backend.request("b")
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()

    assert process.returncode == 130
    assert b"Traceback" not in err
    await exchange.closed()


async def test_ask_into_a_pipe_that_is_closed(stage, config):
    """`ask … | head -c 1` is no error of the daemon's."""
    stage.backend.on("b", plays(*[step for _ in range(100) for step in (delta("x" * 1000), 0.01)]))
    process = await start("ask", "--config", config, "hi")
    assert process.stdout is not None
    assert process.stderr is not None
    await process.stdout.readexactly(1)
    process.stdout._transport.close()  # type: ignore[attr-defined]
    async with asyncio.timeout(20):
        err = await process.stderr.read()
        status = await process.wait()

    assert status == 1
    assert b"no daemon" not in err
    assert b"Traceback" not in err


@pytest.mark.parametrize(
    "command",
    [["ask", "hi"], ["models"], ["top", "--once"], ["check", "--offline", "--json"]],
    ids=" ".join,
)
async def test_standard_output_on_a_full_disk(stage, config, command):
    """Is told as that: status 1, without a traceback, and the daemon is not blamed."""
    stage.backend.on("b", text("hello") if command[0] == "ask" else answers(200, {"data": [{"id": "small"}]}))
    with Path("/dev/full").open("wb") as full:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "beluna_gateway", *command, "--config", str(config)),
            env=clean_environment(),
            stdout=full,
            stderr=asyncio.subprocess.PIPE,
        )
    _, err = await asyncio.wait_for(process.communicate(), 30)

    assert err.decode() == "beluna-gateway: cannot write to standard output: No space left on device\n"
    assert process.returncode == 1


@pytest.mark.parametrize("command", [["ask", "hi"], ["status"]])
async def test_nobody_answers(tmp_path, command):
    """Status 69, and how to start one."""
    outcome = await run(*command, "--socket", tmp_path / "nobody.sock")

    assert (outcome.status, outcome.out) == (69, "")
    assert "beluna-gateway serve" in outcome.err


async def test_an_empty_question(config):
    """Status 64."""
    assert (await run("ask", "--config", config, "  ")).status == 64


@pytest.mark.parametrize("arguments", [["nope"], ["ask", "--backend"], ["ask", "--max-output-tokens", "many"], ["-x"]])
async def test_wrong_arguments(arguments):
    """Status 64, with the usage."""
    outcome = await run(*arguments)

    assert (outcome.status, outcome.out) == (64, "")
    assert outcome.err.startswith("usage: beluna-gateway")


async def test_an_unknown_option_is_refused_with_the_usage_of_its_command():
    """Which names the option that was meant."""
    outcome = await run("ask", "--max-tokens", "5")

    assert (outcome.status, outcome.out) == (64, "")
    assert outcome.err.startswith("usage: beluna-gateway ask ")
    assert "--max-output-tokens" in outcome.err
    assert outcome.err.endswith("beluna-gateway: unrecognized arguments: --max-tokens\n")


@pytest.mark.parametrize(
    ("arguments", "stdin", "told"),
    [
        (["ask"], b"caf\xe9", "the question is not UTF-8: byte 3 is 0xe9"),
        (["ask", b"caf\xe9"], b"", "the question is not UTF-8"),
        (["ask", "hi", "--model", b"\xff"], b"", "--model is not UTF-8"),
    ],
)
async def test_a_question_that_is_not_utf8(config, arguments, stdin, told):
    """Status 64, and what is wrong with it."""
    outcome = await run(*arguments, "--config", config, stdin=stdin)

    assert (outcome.status, outcome.err) == (64, f"beluna-gateway: {told}\n")


async def test_a_terminal_that_is_not_utf8(stage, config):
    """What it cannot show is shown as an escape."""
    stage.backend.on("b", text("Zürich 漢"))

    outcome = await run("ask", "--config", config, "hi", environment={"PYTHONIOENCODING": "ascii"})

    assert (outcome.status, outcome.out) == (0, "Z\\xfcrich \\u6f22\n")


async def test_ask_says_at_a_terminal_what_it_waits_for(stage, config):
    """While nothing comes standard error shows the backend, and nothing of that stays when something has come; where
    it is no terminal it gets nothing."""
    shown = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await shown.wait()
        await text("Hello")(exchange)

    stage.backend.on("b", script)
    piped = await start("ask", "--config", config, "hi")
    await stage.backend.request("b")
    terminal, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "beluna_gateway", "ask", "--config", config, "hi"),
        stdout=asyncio.subprocess.PIPE,
        stderr=theirs,
        env=clean_environment(),
    )
    os.close(theirs)
    seen = ""
    while "…" not in seen:
        seen += (await asyncio.to_thread(os.read, terminal, 4096)).decode()
    shown.set()
    out, _ = await process.communicate()
    seen += os.read(terminal, 4096).decode()
    os.close(terminal)

    assert out == b"Hello\n"
    assert seen == "\r\x1b[Kwaiting for b …\r\x1b[K"
    assert await piped.communicate() == (b"Hello\n", b"")


# --- status ---


async def test_status(stage, config):
    """Tables of backends and clients for people, the frame for programs."""
    table = await run("status", "--config", config)
    frame = json.loads((await run("status", "--config", config, "--json")).out)

    assert table.status == 0
    assert "first-model" in table.out
    assert re.search(
        rf"^{os.getuid()} +[1-9]", table.out, re.MULTILINE
    )  # this client, by its uid, with its connections
    assert (frame["type"], frame["pid"]) == ("status", stage.daemon.pid)


# --- what a terminal gets ---

ESC = "\x1b]0;owned\x07\x9b2J"


async def test_ask_shows_control_characters_as_escapes(stage, config):
    """A model cannot steer the terminal; its lines and tabs stay. `--json` prints the same JSON without them."""
    stage.backend.on("b", text(f"a{ESC}\n\tb\r\u202e"))

    plain = await run("ask", "--config", config, "hi")
    frames = await run("ask", "--config", config, "--json", "hi")

    assert plain.out == r"a\x1b]0;owned\x07\x9b2J" + "\n\tb" + r"\r\u202e" + "\n"
    assert not set(frames.out) & set("\x1b\x07\x9b\u202e")
    assert json.loads(frames.out.splitlines()[1])["delta"] == f"a{ESC}\n\tb\r\u202e"


async def test_errors_show_control_characters_as_escapes(stage, config):
    """A provider's error text, and what a person typed."""
    stage.backend.on("b", fails(401, "bad", f"no{ESC}\r"))

    refused = await run("ask", "--config", config, "hi")
    unknown = await run("check", "--config", config, "--backend", ESC)

    for outcome in (refused, unknown):
        assert r"\x1b]0;owned\x07" in outcome.err
        assert not set(outcome.err) & set("\x1b\x07\x9b\r")


async def test_tables_show_control_characters_as_escapes(stage, tmp_path):
    """Names from the configuration and answers of backends, in `status` and `check`."""
    config = make_config({"b": {"default_model": f"m{ESC}\n"}}, stage.backend)
    stage.backend.on("b", fails(500, None, f"no{ESC}"))
    async with daemon_process(tmp_path, config):
        status = await run("status", "--config", tmp_path / "beluna.jsonc")
    check = await run("check", "--config", tmp_path / "beluna.jsonc")

    assert r"m\x1b]0;owned\x07\x9b2J\n" in status.out
    assert r"no\x1b]0;owned" in check.out
    for outcome in (status, check):
        assert not set(outcome.out) & set("\x1b\x07\x9b")


@pytest.mark.parametrize("arguments", [["ask", "--socket", "nobody.sock", "hi"], ["check"], ["serve"]])
async def test_a_standard_error_that_takes_nothing_changes_no_status(tmp_path, arguments):
    """The exit status still tells what went wrong."""
    statuses = []
    for target in ("/dev/null", "/dev/full"):
        with Path(target).open("wb") as error:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "beluna_gateway", *arguments, stderr=error, env=clean_environment(), cwd=tmp_path
            )
            statuses.append(await process.wait())

    assert statuses[0] == statuses[1] in (66, 69)


# --- check ---


async def test_check(stage, config):
    """Config, credentials and a probe of each backend: a table, status 0 where all is well."""
    for name in BACKENDS:
        stage.backend.on(name, answers(200, {"data": []}))

    outcome = await run("check", "--config", config)

    assert outcome.status == 0, outcome.out
    assert "canary-t" not in outcome.out + outcome.err
    assert {stage.backend.requests(name)[0].method for name in BACKENDS} == {"GET"}
    assert stage.backend.requests("other")[0].headers["authorization"] == "Bearer canary-t"


async def test_check_with_a_backend_that_refuses(stage, config):
    """Status 1, and the row says why, without the secret that the backend repeats."""
    stage.backend.on("b", answers(200, {}))
    stage.backend.on("other", fails(401, "bad_key", "wrong key canary-t"))

    outcome = await run("check", "--config", config)

    assert outcome.status == 1
    assert "authentication" in outcome.out
    assert "canary-t" not in outcome.out + outcome.err
    assert (await run("check", "--config", config, "--backend", "b")).status == 0
    assert (await run("check", "--config", config, "--backend", "nobody")).status == 64


# --- configuration ---


@pytest.mark.parametrize(
    "command", [["serve"], [], ["check"], ["ask", "hi"], ["status"]], ids=lambda c: " ".join(c) or "none"
)
async def test_a_configuration_that_is_wrong(tmp_path, command):
    """Status 78, all mistakes at once, each with its path."""
    config = make_config({"b": {}})
    config["ai_gateway"]["backends"][0]["dialect"] = "openia"
    config["ai_gateway"]["budget"] = {"max_request_time_ms": "soon", "typo": 1}
    path = write_config(tmp_path, config)

    outcome = await run(*command, "--config", path)

    assert (outcome.status, outcome.out) == (78, "")
    for place in ("ai_gateway.backends[0].dialect", "ai_gateway.budget.max_request_time_ms", "ai_gateway.budget.typo"):
        assert place in outcome.err
    asks_a_daemon = command[:1] in (["ask"], ["status"])
    assert ("--socket PATH asks it without this file" in outcome.err) == asks_a_daemon


async def test_a_configuration_that_is_no_json5(tmp_path):
    """Status 78, with line and column."""
    path = write_config(tmp_path, '{\n  "ai_gateway": {,}\n}')

    outcome = await run("--config", path)

    assert outcome.status == 78
    assert "line 2" in outcome.err


@pytest.mark.parametrize("what", ["missing", "folder"])
async def test_a_configuration_that_cannot_be_read(tmp_path, what):
    """Status 66."""
    path = tmp_path / "missing.jsonc" if what == "missing" else tmp_path

    outcome = await run("serve", "--config", path)

    assert (outcome.status, outcome.out) == (66, "")
    assert str(path) in outcome.err


async def test_without_a_command_it_serves(tmp_path):
    """`beluna-gateway --config FILE` is `serve`; the default file is `beluna.jsonc` of this folder."""
    write_config(tmp_path, make_config({"b": {}}))
    process = await start(folder=tmp_path)
    async with asyncio.timeout(20):
        while not (tmp_path / "beluna.sock").exists():
            await asyncio.sleep(0.01)
    async with connected(tmp_path / "beluna.sock") as client:
        assert (await client.status())["pid"] == process.pid
        await client.send({"type": "exit"})
    await process.communicate()

    assert process.returncode == 0


@pytest.mark.parametrize("which", [[], ["config"], ["client"], ["server"]], ids=" ".join)
async def test_schema(which):
    """Prints a JSON Schema, and needs no configuration."""
    outcome = await run("schema", *which)

    assert outcome.status == 0
    assert json.loads(outcome.out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


async def test_version():
    """The version, and nothing is loaded for it."""
    outcome = await run("--version")

    assert outcome.status == 0
    assert outcome.out.startswith("beluna-gateway 0.")
