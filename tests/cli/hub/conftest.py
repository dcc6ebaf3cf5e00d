"""A stand-in that speaks the Hub's HTTP API, as `huggingface_hub` uses it; the client is the real one.

Files of weights are sent by Git LFS, since the other way, Xet, has a protocol of its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from pefttune.store import write_manifest

TOKEN = "hf_" + "W" * 34
READ_ONLY = "hf_" + "R" * 34
Files = dict[str, bytes]


@dataclass
class Repository:
    """What lies at each commit, and which commit a branch or a pull request is at."""

    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, changed: Files, ref: str = "main") -> str:
        """The files of `main`, with these changes."""
        files = {**self.commits.get(self.refs.get("main", ""), {}), **changed}
        oid = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[oid] = files
        self.refs[ref] = oid
        return oid

    def files(self, revision: str = "main") -> Files:
        return self.commits[self.refs.get(revision, revision)]


@dataclass
class Hub:
    """The stand-in: its repositories, the requests it had, and answers that it is told to give instead of its own."""

    url: str = ""
    repos: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refusing: dict[str, int] = field(default_factory=dict)
    """A part of a request's line → the status it is answered with."""
    card_faults: list[dict[str, str]] = field(default_factory=list)
    """What is wrong with the metadata of a card."""
    spoiling: bytes | None = None
    """What is stored in place of every file that is sent by LFS."""
    objects: dict[str, bytes] = field(default_factory=dict)

    def add(self, repo_id: str, files: Files, private: bool = False) -> Repository:
        self.repos[repo_id] = Repository(private)
        self.repos[repo_id].commit({".gitattributes": b"*.safetensors filter=lfs\n", **files})
        return self.repos[repo_id]


def git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def described(path: str, content: bytes) -> dict[str, Any]:
    known: dict[str, Any] = {"size": len(content), "blobId": git_digest(content), "oid": git_digest(content)}
    if path.endswith(".safetensors"):
        sha256 = hashlib.sha256(content).hexdigest()
        known["lfs"] = {"sha256": sha256, "oid": sha256, "size": len(content), "pointerSize": 134}
    return known


class RefusedError(Exception):
    def __init__(
        self, status: int, code: str = "", message: str = "", errors: list[dict[str, str]] | None = None
    ) -> None:
        self.status, self.code, self.message, self.errors = status, code, message, errors or []


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.answer()

        do_HEAD = do_POST = do_PUT = do_GET

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self.chunks()
            hub.asked.append(f"{self.command} {self.path}")
            url = urlsplit(self.path)
            try:
                for part, status in hub.refusing.items():
                    if part in hub.asked[-1]:
                        raise RefusedError(status, message=f"told to answer {status}")
                content, headers = self.result([unquote(p) for p in url.path.split("/")[1:]], parse_qs(url.query), body)
                self.send(200, content, headers)
            except RefusedError as refused:
                told = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
                error = json.dumps({"error": refused.message, "errors": refused.errors}).encode()
                self.send(refused.status, error, {key: value for key, value in told.items() if value})

        def chunks(self) -> bytes:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def result(self, parts: list[str], query: dict[str, list[str]], body: bytes) -> tuple[bytes, dict[str, str]]:
            match parts:
                case ["api", "validate-yaml"]:
                    if hub.card_faults:
                        raise RefusedError(400, errors=hub.card_faults)
                    return as_json({"errors": [], "warnings": []})
                case ["api", "repos", "create"]:
                    return as_json(self.create(json.loads(body)))
                case ["api", "models", owner, name]:
                    return as_json(self.info(f"{owner}/{name}", "main"))
                case ["api", "models", owner, name, "revision", revision]:
                    return as_json(self.info(f"{owner}/{name}", revision))
                case ["api", "models", owner, name, "tree", revision]:
                    files = self.readable(f"{owner}/{name}", revision).files(revision)
                    return as_json(
                        [{"type": "file", "path": path, **described(path, own)} for path, own in files.items()]
                    )
                case ["api", "models", owner, name, "preupload", _]:
                    self.writable(f"{owner}/{name}")
                    asked = [file["path"] for file in json.loads(body)["files"]]
                    modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in asked}
                    told = [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]
                    return as_json({"files": told})
                case [_, _, "info", "lfs", "objects", "batch"]:
                    return as_json({"transfer": "basic", "objects": [self.lfs(o) for o in json.loads(body)["objects"]]})
                case ["lfs", oid]:
                    hub.objects[oid] = body if hub.spoiling is None else hub.spoiling
                    return b"", {}
                case ["api", "models", owner, name, "commit", "main"]:
                    return as_json(self.commit(f"{owner}/{name}", body, "create_pr" in query))
                case [owner, name, "resolve", revision, *path]:
                    return self.file(f"{owner}/{name}", revision, "/".join(path))
            raise RefusedError(404, message=f"the stand-in has no {self.command} {self.path}")

        @property
        def token(self) -> str | None:
            return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

        def readable(self, repo_id: str, revision: str = "main") -> Repository:
            repository = hub.repos.get(repo_id)
            if repository is None or (repository.private and self.token not in (TOKEN, READ_ONLY)):
                raise RefusedError(404 if self.token else 401, "RepoNotFound", "Repository not found")
            if repository.refs.get(revision, revision) not in repository.commits:
                raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return repository

        def writable(self, repo_id: str) -> Repository:
            if self.token != TOKEN:
                raise RefusedError(403 if self.token == READ_ONLY else 401, message="You are not allowed to write here")
            return self.readable(repo_id)

        def create(self, asked: dict[str, Any]) -> dict[str, Any]:
            if self.token != TOKEN:
                raise RefusedError(
                    403 if self.token == READ_ONLY else 401, message="You are not allowed to create this"
                )
            repo_id = f"{asked['organization']}/{asked['name']}"
            hub.add(repo_id, {}, private=asked.get("private") or asked.get("visibility") == "private")
            return {"url": f"{hub.url}/{repo_id}"}

        def info(self, repo_id: str, revision: str) -> dict[str, Any]:
            repository = self.readable(repo_id, revision)
            siblings = [{"rfilename": path, **described(path, own)} for path, own in repository.files(revision).items()]
            oid = repository.refs.get(revision, revision)
            return {"id": repo_id, "sha": oid, "private": repository.private, "siblings": siblings}

        def lfs(self, asked: dict[str, Any]) -> dict[str, Any]:
            return {**asked, "actions": {"upload": {"href": f"{hub.url}/lfs/{asked['oid']}", "header": {}}}}

        def commit(self, repo_id: str, body: bytes, as_pull_request: bool) -> dict[str, Any]:
            repository, lines = self.writable(repo_id), [json.loads(line) for line in body.splitlines()]
            [header] = [line["value"] for line in lines if line["key"] == "header"]
            if header.get("parentCommit") not in (None, repository.refs["main"]):
                raise RefusedError(412, message="A commit has happened since")
            sent = [line["value"] for line in lines if line["key"] == "file"]
            changed = {file["path"]: base64.b64decode(file["content"]) for file in sent}
            changed |= {
                line["value"]["path"]: hub.objects[line["value"]["oid"]] for line in lines if line["key"] == "lfsFile"
            }
            for gone in [line["value"]["path"] for line in lines if line["key"] == "deletedFile"]:
                repository.files().pop(gone)
            number = len(repository.refs)
            oid = repository.commit(changed, f"refs/pr/{number}" if as_pull_request else "main")
            pull_request = f"{hub.url}/{repo_id}/discussions/{number}" if as_pull_request else None
            told = {"commitUrl": f"{hub.url}/{repo_id}/commit/{oid}", "commitOid": oid, "pullRequestUrl": pull_request}
            return {"success": True, **told}

        def file(self, repo_id: str, revision: str, path: str) -> tuple[bytes, dict[str, str]]:
            repository = self.readable(repo_id, revision)
            content = repository.files(revision).get(path)
            if content is None:
                raise RefusedError(404, "EntryNotFound", f"no {path}")
            known = described(path, content)
            etag = known["lfs"]["sha256"] if "lfs" in known else known["oid"]
            oid = repository.refs.get(revision, revision)
            return content, {"ETag": f'"{etag}"', "X-Repo-Commit": oid, "X-Linked-Size": str(len(content))}

    return Handler


def as_json(answer: object) -> tuple[bytes, dict[str, str]]:
    return json.dumps(answer).encode(), {"Content-Type": "application/json"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The stand-in, for which this process takes the Hub, logged in there with the right to write."""
    from huggingface_hub import close_session, constants

    standing = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_of(standing)) as server:
        standing.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", standing.url)
        template = standing.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield standing
        close_session()
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def processes() -> None:
    """In place of the long commands that other tests of the command line have running beside them."""


@pytest.fixture
def base(hub: Hub, tiny: Path) -> str:
    """The tiny model's id on the stand-in."""
    hub.add("anna/tiny-base", {path.name: path.read_bytes() for path in tiny.iterdir() if path.is_file()})
    return "anna/tiny-base"


@pytest.fixture
def from_the_hub(hub: Hub, base: str) -> Any:
    """Makes a stored adapter of the tiny model one whose base has come from the stand-in: `from_the_hub(folder)`."""

    def make(folder: Path) -> Path:
        revision = hub.repos[base].refs["main"]
        config = json.loads((folder / "adapter_config.json").read_text())
        config |= {"base_model_name_or_path": base, "revision": revision}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        rewrite(folder, lambda manifest: place_base(manifest, base, revision))
        return folder

    return make


@pytest.fixture
def folder(from_the_hub: Any, shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The trained adapter in a store of its own here, as if its base had come from the stand-in."""
    monkeypatch.chdir(tmp_path)
    made: Path = from_the_hub(shutil.copytree(shop.store / "tiny" / "1", tmp_path / "adapters" / "tiny" / "1"))
    return made


def place_base(manifest: dict[str, Any], base: str, revision: str) -> None:
    manifest["base"] |= {"source": base, "hub_id": base, "revision": revision, "origin": f"Hub: {base}"}
    manifest["recipe"]["base"]["source"] = base
    manifest["recipe"]["output"]["license"] = "Apache-2.0"


def rewrite(folder: Path, edit: Any) -> None:
    manifest = json.loads((folder / "pefttune.json").read_text())
    edit(manifest)
    write_manifest(folder, {key: value for key, value in manifest.items() if key not in ("format", "files")})


@pytest.fixture(scope="session")
def edited() -> Any:
    """Changes a manifest, and with it its digests: `edited(folder, lambda manifest: …)`."""
    return rewrite


@pytest.fixture
def published(hub: Hub, folder: Path, command: Any) -> Repository:
    """The adapter's repository, `anna/reviews`."""
    done = command("publish", "tiny", "--repo-id", "anna/reviews")
    assert done.code == 0, done.err
    return hub.repos["anna/reviews"]


@pytest.fixture(scope="session")
def tokens() -> tuple[str, str]:
    """One that may write, and one that may only read."""
    return TOKEN, READ_ONLY
