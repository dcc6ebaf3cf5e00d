"""The bill of materials of a published adapter, as CycloneDX 1.6 (cyclonedx.org, ML-BOM): the adapter with its model
card, its base, its data and the libraries that trained it. All of it stands in the manifest, in pefttune's own form."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from pefttune.bases import BASES
from pefttune.methods.weights import WEIGHTS
from pefttune.publishing.results import hub_dataset

HUB = "https://huggingface.co"


def bill(manifest: Mapping[str, Any], license: str | None) -> dict[str, Any]:
    """The bill, JSON-able: the same for the same manifest. `license` is the adapter's."""
    libraries = [_library(name, version) for name, version in sorted(manifest["versions"].items())]
    others = [_base(manifest), _data(manifest), *libraries]
    adapter = _adapter(manifest, license)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, _sha256(manifest))}",
        "version": 1,
        "metadata": {
            "timestamp": manifest["created"],
            "tools": {"components": [_library("pefttune", manifest["versions"]["pefttune"]) | {"bom-ref": "tool"}]},
            "component": adapter,
        },
        "components": others,
        "dependencies": [{"ref": adapter["bom-ref"], "dependsOn": [other["bom-ref"] for other in others]}],
    }


def _adapter(manifest: Mapping[str, Any], license: str | None) -> dict[str, Any]:
    recipe, comparison = manifest["recipe"], manifest["comparison"]
    metrics = [
        {"type": name, "value": f"{comparison['adapter'][key]:g}", "slice": "test rows"}
        for key, name in comparison["shown"].items()
    ]
    metrics += [
        {"type": comparison["shown"][comparison["primary"]], "value": f"{each['there']:g}", "slice": each["against"]}
        for each in comparison["differences"]
    ]
    card = {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": recipe["task"]["type"],
            "architectureFamily": recipe["adapter"]["method"],
            "datasets": [{"ref": "data"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": metrics},
    }
    told = {"recipe:sha256": _sha256(recipe), "parameters": str(manifest["parameters"])}
    parents = (manifest.get("lineage") or {}).get("parents", [])
    ancestors = [
        {"type": "machine-learning-model", "name": parent["name"], "version": str(parent["version"])}
        | {"hashes": [{"alg": "SHA-256", "content": parent["sha256"]}]}
        for parent in parents
    ]
    return {
        "type": "machine-learning-model",
        "bom-ref": "adapter",
        "name": manifest["name"],
        **_licenses(license),
        "hashes": [{"alg": "SHA-256", "content": manifest["files"][WEIGHTS]}],
        **({"pedigree": {"ancestors": ancestors}} if ancestors else {}),
        "modelCard": card,
        "properties": _properties(told),
    }


def _base(manifest: Mapping[str, Any]) -> dict[str, Any]:
    base = manifest["base"]
    known, hub_id, revision = BASES.get(base["source"]), base["hub_id"], base["revision"]
    told = {"origin": base["origin"], **{f"fingerprint:{key}": value for key, value in base["fingerprint"].items()}}
    at = f"{HUB}/{hub_id}" + (f"/tree/{revision}" if revision else "")
    return {
        "type": "machine-learning-model",
        "bom-ref": "base",
        "name": hub_id or base["origin"],
        **({"version": revision} if revision else {}),
        **_licenses(known.license if known else None),
        **({"externalReferences": [{"type": "distribution", "url": at}]} if hub_id else {}),
        "properties": _properties(told),
    }


def _data(manifest: Mapping[str, Any]) -> dict[str, Any]:
    data, source = manifest["data"], hub_dataset(dict(manifest))
    told = {f"rows:{part}": str(count) for part, count in data["rows"].items()}
    told |= {f"rows:{part}:sha256": digest for part, digest in data["fingerprints"].items()}
    at = [{"type": "distribution", "url": f"{HUB}/datasets/{source}"}] if source else []
    return {
        "type": "data",
        "bom-ref": "data",
        "name": data["title"] or data["source"],
        **_licenses(data["licence"]),
        **({"externalReferences": at} if at else {}),
        "data": [{"type": "dataset", "name": data["source"]}],
        "properties": _properties(told),
    }


def _library(name: str, version: str) -> dict[str, Any]:
    if name == "python":
        return {"type": "platform", "bom-ref": name, "name": name, "version": version}
    purl = f"pkg:pypi/{name}@{quote(version, safe='.')}"
    return {"type": "library", "bom-ref": name, "name": name, "version": version, "purl": purl}


def _licenses(license: str | None) -> dict[str, Any]:
    """By name: SPDX's own list of identifiers, with their capitals, is no part of pefttune."""
    return {"licenses": [{"license": {"name": license}}]} if license else {}


def _properties(told: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": f"pefttune:{key}", "value": value} for key, value in told.items()]


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
