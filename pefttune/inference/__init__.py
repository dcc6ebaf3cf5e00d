"""The session: one resident base, many adapters."""

from pefttune.inference.loaded import Loaded
from pefttune.inference.opening import load_base_of, open_session
from pefttune.inference.session import BASE_ITSELF, Session

__all__ = ["BASE_ITSELF", "Loaded", "Session", "load_base_of", "open_session"]
