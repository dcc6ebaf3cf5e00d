"""The bill of materials is CycloneDX by the letter, and says what the manifest says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pefttune.publishing.bom import bill

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "adapters").glob("*/1/pefttune.json"))


def shipped(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return manifest


def faults(document: dict[str, Any]) -> Any:
    pytest.importorskip("cyclonedx", reason="needs pip install 'cyclonedx-python-lib[json-validation]'")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parents[1].name)
def test_it_is_cyclonedx(path: Path) -> None:
    assert faults(bill(shipped(path), "apache-2.0")) is None


def test_there_are_adapters() -> None:
    assert len(SHIPPED) >= 4


def test_any_licence_base_and_lineage_will_do() -> None:
    manifest = shipped(SHIPPED[0])
    manifest["base"] |= {"hub_id": "anna/base", "revision": "0" * 40, "source": "anna/base"}
    manifest["data"] |= {"licence": None, "title": None}
    manifest["lineage"] = {"how": "warm_start", "parents": [{"name": "film", "version": 3, "sha256": "a" * 64}]}
    document = bill(manifest, None)
    assert faults(document) is None
    assert document["metadata"]["component"]["pedigree"]["ancestors"][0]["hashes"][0]["content"] == "a" * 64
    assert document["components"][0]["externalReferences"][0]["url"].endswith(f"anna/base/tree/{'0' * 40}")


def test_what_is_none_is_found() -> None:
    """Of the validator: a document that is wrong does not pass."""
    assert faults({**bill(shipped(SHIPPED[0]), None), "components": [{"type": "spell"}]}) is not None


def test_it_says_what_the_manifest_says() -> None:
    manifest = shipped(SHIPPED[0])
    document = bill(manifest, "apache-2.0")
    adapter, (base, data, *libraries) = document["metadata"]["component"], document["components"]
    assert adapter["hashes"] == [{"alg": "SHA-256", "content": manifest["files"]["adapter_model.safetensors"]}]
    assert adapter["modelCard"]["modelParameters"]["datasets"] == [{"ref": data["bom-ref"]}]
    told = {each["name"]: each["value"] for each in base["properties"]}
    assert told["pefttune:fingerprint:tensors"] == manifest["base"]["fingerprint"]["tensors"]
    told = {each["name"]: each["value"] for each in data["properties"]}
    assert told["pefttune:rows:train:sha256"] == manifest["data"]["fingerprints"]["train"]
    assert {each["name"]: each["version"] for each in libraries} == manifest["versions"]
    assert bill(manifest, "apache-2.0") == document
    manifest["recipe"]["seed"] += 1
    assert bill(manifest, "apache-2.0")["serialNumber"] != document["serialNumber"]
