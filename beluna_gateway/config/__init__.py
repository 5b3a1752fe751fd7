"""The configuration: its models (`settings`), reading a file (`loading`), and what is wrong with one (`mistakes`)."""

from .loading import ConfigError, ConfigUnreadable, load_config
from .settings import Config

__all__ = ["Config", "ConfigError", "ConfigUnreadable", "load_config"]
