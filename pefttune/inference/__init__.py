"""The session: one resident base, many adapters."""

from pefttune.inference.generation import Sampling
from pefttune.inference.opening import load_base_of, open_session
from pefttune.inference.session import Loaded, Session

__all__ = ["Loaded", "Sampling", "Session", "load_base_of", "open_session"]
