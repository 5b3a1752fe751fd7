"""The local model: llama.cpp's own server, from a wheel, with SmolLM2-135M-Instruct beside it.

    python -m beluna_gateway.local_model --port 8931

It is what `make demo` and the live tests talk to: a real server and a real model that need no key and no compiler. It
has 135 million parameters, so it is fast, small and often wrong; `--model FILE.gguf` puts a better one in its place.
"""
