"""Send a publication to the Hub in one commit, or as a pull request, and read back what lies there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_session, get_token
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import ModelInfo, RepoSibling

from pefttune.errors import AdapterError, HubError, VerificationError
from pefttune.publishing.files import CARD, MOST_BYTES_BESIDE, is_ours
from pefttune.publishing.hub import hub_errors, siblings_of
from pefttune.publishing.publication import File, Publication
from pefttune.store.strict_json import shown


@dataclass(frozen=True)
class Published:
    """Where a publication lies: the commit and its address, or that of the pull request that waits to be merged."""

    url: str
    commit: str


def publish(publication: Publication, *, pull_request: bool = False) -> Published:
    """Put the publication's files, and nothing else, into its repository, which is made where it is not there.

    Raises HubError where the Hub cannot be reached or refuses it, or the repository holds what is no part of an
    adapter; VerificationError where the Hub then holds something else than was sent.
    """
    repo_id, api = publication.repo_id, HfApi(library_name="pefttune")
    with hub_errors(repo_id):
        _check_card(publication)
        there = _repository(api, publication, pull_request)
        _check_room(there, publication)
        commit = api.create_commit(
            repo_id,
            [*(CommitOperationAdd(file.name, file.path) for file in publication.files), *_stale(there, publication)],
            commit_message=f"Publish {publication.name}",
            create_pr=pull_request,
            parent_commit=there.sha,  # of what was looked at: a change made meanwhile is refused, not overwritten
        )
        landed = api.model_info(repo_id, revision=commit.pr_revision or commit.oid, files_metadata=True)
    _check_landed(landed, publication)
    return Published(commit.pr_url or commit.commit_url, commit.oid)


def _check_card(publication: Publication) -> None:
    """Raise AdapterError where the Hub would refuse the card, before a repository is made for it."""
    [card] = [file.path for file in publication.files if file.name == CARD]
    body = {"content": card.read_text(encoding="utf-8"), "repoType": "model"}
    headers = {"Authorization": f"Bearer {token}"} if (token := get_token()) else {}
    answer = get_session().post(f"{constants.ENDPOINT}/api/validate-yaml", json=body, headers=headers)
    if answer.status_code == 400:
        faults = "; ".join(str(fault.get("message")) for fault in answer.json().get("errors", []))
        raise AdapterError(f"the Hub refuses the metadata of {CARD}: {shown(faults) or 'it does not say why'}")


def _repository(api: HfApi, publication: Publication, pull_request: bool) -> ModelInfo:
    try:
        return api.model_info(publication.repo_id)
    except RepositoryNotFoundError:
        if pull_request:
            raise
    api.create_repo(publication.repo_id, private=publication.private)
    return api.model_info(publication.repo_id)


def _check_room(there: ModelInfo, publication: Publication) -> None:
    if publication.private and not there.private:
        raise HubError(f"{publication.repo_id} is on the Hub already, and public: --private cannot hide it")
    for sibling in siblings_of(there):
        name = sibling.rfilename
        if not is_ours(name):
            raise HubError(
                f"{publication.repo_id} holds {name!r}, which is no part of an adapter, so that nobody could pull what "
                "is published there: take it out, or give another --repo-id"
            )


def _stale(there: ModelInfo, publication: Publication) -> list[CommitOperationDelete]:
    """What is there of an older publication, and not of this one: a signature would not hold for it."""
    sent = {file.name for file in publication.files}
    names = {sibling.rfilename for sibling in siblings_of(there)}
    return [CommitOperationDelete(name) for name in sorted(MOST_BYTES_BESIDE.keys() & names - sent)]


def _check_landed(landed: ModelInfo, publication: Publication) -> None:
    there = {sibling.rfilename: sibling for sibling in siblings_of(landed)}
    for file in publication.files:
        if not _is(there.get(file.name), file):
            raise VerificationError(
                f"{publication.repo_id} does not hold the {file.name} that was sent, at commit {landed.sha}: publish "
                "it again, and tell people not to use that commit"
            )


def _is(sibling: RepoSibling | None, file: File) -> bool:
    """Whether a file of the Hub is this one, by the digest that the Hub has of it: sha256, or git's own."""
    if sibling is None:
        return False
    return sibling.lfs.sha256 == file.sha256 if sibling.lfs else sibling.blob_id == _git_digest(file.path)


def _git_digest(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
