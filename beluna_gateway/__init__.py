"""beluna-gateway: the one place through which every model call of Beluna goes."""

__version__ = "0.1.0"
