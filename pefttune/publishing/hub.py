"""The Hub, spoken to through `huggingface_hub`: every way it can fail is a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from huggingface_hub import constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pefttune.bases.locate import HUB_ID
from pefttune.errors import AdapterError, HubError, PefttuneError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def check_repo_id(repo_id: str) -> str:
    """The id, if it can be one of a repository, with its owner. Raises AdapterError."""
    if not HUB_ID.fullmatch(repo_id) or "/" not in repo_id or ".." in repo_id:
        raise AdapterError(f"{repo_id!r} cannot be a repository on the Hub: give it as OWNER/NAME")
    return repo_id


def siblings_of(info: ModelInfo) -> list[RepoSibling]:
    """The files of a repository."""
    return info.siblings or []


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turns what `huggingface_hub` raises in the block into HubErrors about the repository. An OSError of this
    machine's own disk passes."""
    try:
        yield
    except PefttuneError:
        raise
    except (OfflineModeIsEnabled, LocalTokenNotFoundError) as error:
        raise HubError(_first_line(error)) from None
    except HFValidationError as error:
        raise AdapterError(f"{repo_id!r} cannot be a repository on the Hub: {error}") from None
    except RevisionNotFoundError:
        raise HubError(f"{repo_id} has no such branch, tag or commit on the Hub") from None
    except RepositoryNotFoundError as error:
        raise HubError(
            f"{repo_id} is not on the Hub ({constants.ENDPOINT}), or is private or gated and your token may not read "
            f"it: check the name, or {LOG_IN}" + _said(error)
        ) from None
    except HfHubHTTPError as error:
        raise HubError(_refusal(repo_id, error)) from None
    except LocalEntryNotFoundError as error:
        raise _unreachable(error) from None
    except OSError:
        raise
    except Exception as error:  # of the HTTP library, or of what the Hub's answer is read by
        raise _unreachable(error) from None


def _refusal(repo_id: str, error: HfHubHTTPError) -> str:
    said, status = _said(error), error.response.status_code
    if status == 401:
        return f"the Hub does not know who you are: {LOG_IN}{said}"
    if status == 403:
        return f"your token may not write to {repo_id}: take one that may, or another owner{said}"
    if status in (409, 412):
        return f"{repo_id} was changed by somebody else meanwhile; look at it and publish again{said}"
    if status == 429:
        return f"the Hub asks to wait, for there were too many requests; try again in a few minutes{said}"
    if status >= 500:
        return f"the Hub ({constants.ENDPOINT}) has a fault of its own (HTTP {status}); try again later{said}"
    return f"the Hub refused what was asked of {repo_id} (HTTP {status}){said}"


def _said(error: HfHubHTTPError) -> str:
    return f". It said: {error.server_message.strip()[:300]}" if error.server_message else ""


def _unreachable(error: Exception) -> HubError:
    cause = error.__cause__ or error
    return HubError(f"the Hub ({constants.ENDPOINT}) could not be reached, or broke off: {_first_line(cause)}")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
