"""Settings of the libraries under torch are made before it can compute anything, and the user's own are left."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pefttune.environment import ALSO, SETTINGS

TELL = """
import pefttune, os, sys
assert "torch" not in sys.modules
print(*[os.environ.get(name, "-") for name in sys.argv[1:]])
"""


def told(own: dict[str, str]) -> list[str]:
    """The settings after `import pefttune` in a process whose user has set `own`."""
    bare = {name: value for name, value in os.environ.items() if name not in (*SETTINGS, *ALSO.values())}
    command = [sys.executable, "-c", TELL, *SETTINGS]
    done = subprocess.run(command, env=bare | own, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("own", [{}, dict.fromkeys(SETTINGS, "7")])
def test_settings_are_made_at_import_unless_the_user_made_them(own: dict[str, str]) -> None:
    assert told(own) == [own.get(name, value) for name, value in SETTINGS.items()]


@pytest.mark.parametrize("name", list(ALSO))
def test_a_setting_that_the_user_made_by_another_name_is_left(name: str) -> None:
    assert told({ALSO[name]: "7"}) == ["-" if key == name else value for key, value in SETTINGS.items()]
