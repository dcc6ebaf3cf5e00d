"""Every error a user can meet, in one tree.

    PefttuneError                 exit 1
    ├── InputError                exit 2: something the user gave is wrong, and the message says how to mend it
    │   ├── RecipeError           the recipe: unknown key, wrong type, impossible value (all faults in one error)
    │   ├── DataError             the data: a missing file, a broken row, an unknown label
    │   ├── BaseError             the base: not found, unreadable, unsafe, unfit for the task
    │   └── AdapterError          an adapter: unknown or unsafe name, damaged files, made for another base
    ├── FetchError                something pinned could not be fetched, or is not what was pinned
    ├── HubError                  the Hub cannot be reached, or refuses what was asked of it
    ├── TrainingError             training stopped before it could do harm
    │   └── NonFiniteError        the loss or the gradient is NaN or infinite; nothing was updated
    ├── VerificationError         what was saved and read back is not what was trained
    └── StorageError              a file could not be written (disk full, read-only); the old version is whole

Every message is a sentence for the user: what is wrong, where (file, line, row, column), and how to mend it.
"""

from __future__ import annotations


class PefttuneError(Exception):
    """Root of the tree. `exit_code` is what the command line returns for it."""

    exit_code = 1


class InputError(PefttuneError):
    """Something the user gave is wrong."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe is wrong. The message lists every fault, with key path and line."""


class DataError(InputError):
    """Data is missing, broken, or does not fit the task. The message names file, row and column."""


class BaseError(InputError):
    """A base cannot be found, read or trusted, or does not fit the task."""


class AdapterError(InputError):
    """An adapter is unknown, damaged, unsafely named, or made for another base."""


class FetchError(PefttuneError):
    """Something pinned could not be fetched, or its sha256 is not the pinned one."""


class HubError(PefttuneError):
    """The Hub cannot be reached, does not know who asks, or refuses what was asked."""


class TrainingError(PefttuneError):
    """Training was stopped because going on would give a wrong adapter."""


class NonFiniteError(TrainingError):
    """The loss or the gradient norm is NaN or infinite. Raised before the update."""


class VerificationError(PefttuneError):
    """The adapter that was read back does not give what the trained one gave."""


class StorageError(PefttuneError):
    """A file could not be written. What was stored before is untouched."""
