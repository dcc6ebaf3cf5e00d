"""The session: one resident base, many adapters."""

from pefttune.inference.activations import input_sketches
from pefttune.inference.features import POOLINGS, Features, extract
from pefttune.inference.frozen import boundary_of
from pefttune.inference.likelihoods import answer_log_likelihoods
from pefttune.inference.loaded import Loaded
from pefttune.inference.opening import base_section_of, load_base_of, open_session
from pefttune.inference.prompted import PromptedEncoder
from pefttune.inference.readonly import ReadOnlyEncoder
from pefttune.inference.sampling import Sampling
from pefttune.inference.saved import check_base, check_config, check_described
from pefttune.inference.session import BASE_ITSELF, Session
from pefttune.inference.views import View, views_of

__all__ = [
    "BASE_ITSELF",
    "POOLINGS",
    "Features",
    "Loaded",
    "PromptedEncoder",
    "ReadOnlyEncoder",
    "Sampling",
    "Session",
    "View",
    "answer_log_likelihoods",
    "base_section_of",
    "boundary_of",
    "check_base",
    "check_config",
    "check_described",
    "extract",
    "input_sketches",
    "load_base_of",
    "open_session",
    "views_of",
]
