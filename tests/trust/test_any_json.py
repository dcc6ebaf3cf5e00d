"""Whatever a manifest or a configuration says: it is refused by a sentence, or the adapter loads and does no harm. The
header of the weights has tests of its own (tests/methods/test_tensor_file.py); together they are over 10,000 cases."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pefttune import store
from pefttune.errors import AdapterError, InputError, PefttuneError, VerificationError
from pefttune.evaluation import largest_difference
from pefttune.inference import Session
from pefttune.methods import configuration
from pefttune.recipe import recipe_from_mapping

CONFIG, MANIFEST = "adapter_config.json", store.MANIFEST
PIECES = [
    b"9",
    b"-",
    b"[",
    b"}",
    b'"',
    b"0",
    b",",
    b"e",
    b"NaN",
    b"null",
    b"true",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"{}",
]
UNHURRIED = settings(deadline=None, suppress_health_check=list(HealthCheck))

words = st.text(max_size=6) | st.sampled_from(
    ["all-linear", "(a+)+$", "../x", "/etc/passwd", "\x1b[2J", "9" * 5000, "\0"]
)
numbers = st.integers(-3, 20) | st.sampled_from([2**31, -(2**63), 10**30, 1e30, 1e-320, 200_000_000]) | st.floats(
    allow_nan=False, allow_infinity=False
)  # fmt: skip
junk = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def adapter(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(finished().run.folder, tmp_path_factory.mktemp("adapter") / "1"))


@pytest.fixture(scope="module")
def originals(adapter: Path) -> dict[str, bytes]:
    return {name: (adapter / name).read_bytes() for name in (CONFIG, MANIFEST)}


@pytest.fixture
def session(base_of: Any) -> Session:
    return Session(base_of())


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside."""
    if path:
        yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def harmless(act: Callable[[], object], *kinds: type[PefttuneError]) -> bool:
    """Whether it went well; else it was told in a sentence."""
    try:
        act()
    except kinds as error:
        told = str(error)
        assert len(told) < 20_000
        assert not set(told) & {"\x1b", "\0"}
        return False
    return True


@settings(UNHURRIED, max_examples=1500)
@given(st.data())
def test_a_file_with_changed_bytes(adapter: Path, originals: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([CONFIG, MANIFEST]))
    content = bytearray(originals[name])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3) | st.sampled_from(PIECES))
    (adapter / name).write_bytes(content)
    if name == CONFIG:
        harmless(lambda: configuration.read(adapter), AdapterError)
    else:
        harmless(lambda: store.read_manifest(adapter), AdapterError)
    (adapter / name).write_bytes(originals[name])


@settings(UNHURRIED, max_examples=1500)
@given(st.data())
def test_a_configuration_that_says_anything(adapter: Path, originals: dict[str, bytes], data: st.DataObject) -> None:
    config = json.loads(originals[CONFIG])
    for _ in range(data.draw(st.integers(1, 2))):
        config[data.draw(st.sampled_from(sorted(config)) | words)] = data.draw(junk)
    (adapter / CONFIG).write_text(json.dumps(data.draw(st.just(config) | st.just(config) | junk)))
    harmless(lambda: configuration.read(adapter), AdapterError)
    (adapter / CONFIG).write_bytes(originals[CONFIG])


@settings(UNHURRIED, max_examples=500)
@given(st.data())
def test_a_manifest_that_says_anything(
    adapter: Path, originals: dict[str, bytes], session: Session, put: Any, data: st.DataObject
) -> None:
    manifest = json.loads(originals[MANIFEST])
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(list(places(manifest))))
        put(manifest, path, data.draw(junk | st.just(...)))
    (adapter / MANIFEST).write_text(json.dumps(manifest))
    digest = session.base.digest()
    if harmless(lambda: session.load(adapter, "any"), InputError):
        probe = store.read_manifest(adapter)["probe"]
        harmless(lambda: largest_difference(session, "any", probe), VerificationError, InputError)
        session.remove("any")
    assert session.names == ()
    assert session.base.digest() == digest
    (adapter / MANIFEST).write_bytes(originals[MANIFEST])


@settings(UNHURRIED, max_examples=500)
@given(st.data())
def test_a_recipe_that_says_anything(originals: dict[str, bytes], put: Any, data: st.DataObject) -> None:
    recipe = json.loads(originals[MANIFEST])["recipe"]
    for _ in range(data.draw(st.integers(1, 3))):
        put(recipe, data.draw(st.sampled_from(list(places(recipe)))), data.draw(junk))
    harmless(lambda: recipe_from_mapping(recipe, where=MANIFEST), InputError)
