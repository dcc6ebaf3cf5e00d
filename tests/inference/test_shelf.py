"""Which adapters are on the base: by memory, by content, and read while others predict."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pefttune import methods, store
from pefttune.errors import AdapterError
from pefttune.inference import Session, open_session
from pefttune.methods.lora_layer import LoraLinear

TEXTS = ["a fine film", "cold", "bright and warm"]


@pytest.fixture
def session(base_of: Any) -> Session:
    return Session(base_of())


@pytest.fixture
def folders(finished: Any, tmp_path: Path) -> list[Path]:
    """The same stored adapter in three places."""
    source = finished().run.folder
    return [Path(shutil.copytree(source, tmp_path / name / "1")) for name in ("one", "two", "three")]


def slots(session: Session) -> int:
    layer = next(module for module in session.base.model.modules() if isinstance(module, LoraLinear))
    return len(layer.lora_A)


def limited(session: Session, folders: list[Path], room_for: float) -> Session:
    """A session on the same base with room for so many of the adapters."""
    size = session.load(folders[0], "probe").nbytes
    session.remove("probe")
    return Session(session.base, max_adapter_mib=room_for * size / 2**20)


def loaded(session: Session, folders: list[Path]) -> Session:
    for name, folder in zip("abc", folders, strict=True):
        session.load(folder, name)
    return session


def test_the_least_recently_used_leaves_and_comes_back_the_same(session: Session, folders: list[Path]) -> None:
    small = limited(session, folders, room_for=2.5)
    small.load(folders[0], "a")
    small.load(folders[1], "b")
    before = [p.probabilities for p in small.predict(TEXTS, "a")]  # b is now the one used longest ago
    small.load(folders[2], "c")
    assert small.resident == ("a", "c")
    assert slots(small) == 2
    assert set(small.names) == {"a", "b", "c"}
    assert [p.probabilities for p in small.predict(TEXTS, "b")] == before  # the same weights, read again
    assert small.resident == ("c", "b")
    assert [p.probabilities for p in small.predict(TEXTS, "a")] == before


def test_one_of_another_base_that_was_let_in_comes_back_as_well(session: Session, folders: list[Path]) -> None:
    manifest = json.loads((folders[0] / store.MANIFEST).read_text())
    manifest["base"]["fingerprint"]["chat_template"] = "other"
    store.write_manifest(folders[0], {key: each for key, each in manifest.items() if key not in ("format", "files")})
    with pytest.raises(AdapterError, match=r"They differ in: chat template \("):
        session.load(folders[0], "a")
    size = session.load(folders[1], "probe").nbytes
    session.remove("probe")
    small = Session(session.base, max_adapter_mib=1.5 * size / 2**20, may_differ=["chat_template"])
    before = [p.probabilities for p in (small.load(folders[0], "a"), *small.predict(TEXTS, "a"))[1:]]
    small.load(folders[1], "b")
    assert small.resident == ("b",)
    assert [p.probabilities for p in small.predict(TEXTS, "a")] == before
    assert list(small.base_mismatch("a")) == ["chat_template"]
    assert small.base_mismatch("b") == {}
    small.remove("a")
    assert small.base_mismatch("a") == {}


def test_a_pass_of_more_adapters_than_there_is_room_for_is_still_right(session: Session, folders: list[Path]) -> None:
    roomy = [p.probabilities for p in loaded(session, folders).predict(TEXTS, list("abc"))]
    for name in "abc":
        session.remove(name)
    small = loaded(limited(session, folders, room_for=1.5), folders)
    assert len(small.resident) == 1
    for ours, theirs in zip(small.predict(TEXTS, list("abc")), roomy, strict=True):
        assert ours.probabilities == pytest.approx(theirs, rel=1e-4)  # batches of another width, float32


def test_a_chunk_of_rows_reads_each_adapter_once(
    session: Session, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = loaded(limited(session, folders, room_for=1.5), folders)
    list(small.predict(TEXTS, "a"))
    read: list[str] = []
    of_file = methods.weights.read
    monkeypatch.setattr(methods.weights, "read", lambda *told: read.append(told[0]) or of_file(*told))
    monkeypatch.setattr("pefttune.inference.predicting.ROWS_AT_ONCE", 9)
    list(small.predict(TEXTS * 6, list("abc") * 6))
    assert len(read) <= 2 * len(folders)


def test_the_tables_that_adapters_share_count_as_theirs(session: Session, folders: list[Path], adapted: Any) -> None:
    first = session.load(folders[0], "a")
    for i in range(3):
        session.load(folders[1], f"b{i}")
    list(session.predict(TEXTS * 2, ["a", "b0", "b1", "b2", "a", "b0"]))  # makes them
    layers = [module for module in session.base.model.modules() if isinstance(module, LoraLinear)]
    tables = sum(t.nbytes for layer in layers if (own := layer._tables) for t in (own.a_nrI, own.b_nOr))
    assert tables == methods.tables_nbytes(session.base.model) == 4 * first.nbytes  # float32 as the weights are
    for name in session.names:
        session.remove(name)
    small = limited(session, folders, room_for=4.5)  # four without their tables, three with what four would need
    for i in range(5):
        small.load(folders[i % 3], f"c{i}")
        list(small.predict(TEXTS * 2, [small.resident[j % len(small.resident)] for j in range(6)]))
    assert small.resident == ("c2", "c3", "c4")


def test_room_is_made_before_an_adapter_is_attached(
    session: Session, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = limited(session, folders, room_for=2.5)
    most: list[int] = []
    attach = small.attach
    monkeypatch.setattr(small, "attach", lambda *how: (attach(*how), most.append(slots(small)))[0])
    loaded(small, folders)
    list(small.predict(TEXTS, list("abc")))
    assert max(most) == 2


def test_an_adapter_that_was_made_here_never_leaves(session: Session, folders: list[Path], adapted: Any) -> None:
    small = limited(session, folders, room_for=0.5)
    adapted(small, "made")
    small.load(folders[0], "stored")
    small.load(folders[1], "newer")
    assert set(small.resident) == {"made", "newer"}


def test_new_weights_under_an_old_name_are_never_taken_for_the_old(
    session: Session, folders: list[Path], finished: Any
) -> None:
    session.load(folders[0], "a")
    # The same weights are no news, by whichever path.
    assert session.load(folders[0], "a") is session["a"]
    assert session.load(folders[0] / ".." / folders[0].name, "a") is session["a"]
    shutil.rmtree(folders[1])
    shutil.copytree(finished("head").run.folder, folders[1])
    with pytest.raises(AdapterError, match="the session already holds another adapter 'a'; remove it first"):
        session.load(folders[1], "a")


def test_weights_that_changed_while_the_adapter_was_away_are_refused(
    session: Session, folders: list[Path], finished: Any
) -> None:
    small = limited(session, folders, room_for=1.5)
    small.load(folders[0], "a")
    small.load(folders[1], "b")
    assert small.resident == ("b",)
    shutil.rmtree(folders[0])
    shutil.copytree(finished("head").run.folder, folders[0])
    with pytest.raises(AdapterError, match="holds other weights than when it was loaded"):
        list(small.predict(TEXTS, "a"))
    assert [str(p) for p in small.predict(TEXTS, "b")]


def test_loading_in_the_background_gives_the_same_adapter_and_the_same_errors(
    session: Session, folders: list[Path]
) -> None:
    session.load(folders[0], "a")
    later = session.load_in_background(folders[1], "b")
    before = [p.probabilities for p in session.predict(TEXTS * 20, "a")]
    assert later.result(timeout=60) is session["b"]
    assert [p.probabilities for p in session.predict(TEXTS * 20, "b")] == before
    (folders[2] / store.MANIFEST).unlink()
    with pytest.raises(AdapterError, match="cannot be read"):
        session.load_in_background(folders[2], "c").result(timeout=60)
    assert set(session.names) == {"a", "b"}


def test_several_adapters_open_at_once_and_the_first_is_in_use(finished: Any) -> None:
    run = finished()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEFTTUNE_CACHE", str(run.cache))
        session = open_session(["tiny", "tiny@1"], run.store)
    assert set(session.names) == {"tiny", "tiny@1"}
    assert [str(p) for p in session.predict(TEXTS)] == [str(p) for p in session.predict(TEXTS, "tiny@1")]
    with pytest.raises(AdapterError, match="needs the name of an adapter"):
        open_session([], run.store)
