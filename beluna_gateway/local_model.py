"""`python -m beluna_gateway.local_model`: the name of `processes/local_model` that configurations use."""

from .processes.local_model.__main__ import main

if __name__ == "__main__":
    main()
