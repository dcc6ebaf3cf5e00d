"""Settings of the libraries under torch are made before torch is loaded, and the user's own are left."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pefttune.environment import SETTINGS

TELL = "import pefttune, os, sys; assert 'torch' not in sys.modules; print([os.environ[name] for name in sys.argv[1:]])"


@pytest.mark.parametrize("own", [None, "7"])
def test_settings_are_made_at_import_unless_the_user_made_them(own: str | None) -> None:
    bare = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    environment = bare if own is None else bare | dict.fromkeys(SETTINGS, own)
    command = [sys.executable, "-c", TELL, *SETTINGS]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert told.strip() == str([own or value for value in SETTINGS.values()])
