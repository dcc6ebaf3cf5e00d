"""The session: one resident base, many adapters."""

from pefttune.inference.features import POOLINGS, Features, extract
from pefttune.inference.frozen import boundary_of
from pefttune.inference.loaded import Loaded
from pefttune.inference.opening import load_base_of, open_session
from pefttune.inference.prompted import PromptedEncoder
from pefttune.inference.sampling import Sampling
from pefttune.inference.session import BASE_ITSELF, Session

__all__ = [
    "BASE_ITSELF",
    "POOLINGS",
    "Features",
    "Loaded",
    "PromptedEncoder",
    "Sampling",
    "Session",
    "boundary_of",
    "extract",
    "load_base_of",
    "open_session",
]
