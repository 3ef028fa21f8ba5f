"""What can go wrong, as a tree.

HeadraceError
 ├─ UserError            the user's mistake (bad config, path, data): one message, exit code 2
 │   └─ NotHere          a file, folder, download or key that this machine has not: another may
 ├─ ProblemError         one problem can't be searched: becomes a row with its error, the run goes on
 │   ├─ PromptTooLong
 │   └─ LateError        its time is over
 └─ ReplicaError         a replica died or stalled and its work could not be placed elsewhere
     └─ PoolExhausted    no replica is left and none could be restarted
"""


class HeadraceError(Exception):
    """Base of every error that Headrace raises on purpose."""


class UserError(HeadraceError, ValueError):
    """A mistake in what the user gave. The message says what, what was got and what was wanted."""


class NotHere(UserError):
    """What a command needs is not on this machine. What it is meant to be may be right all the same."""


class ProblemError(HeadraceError):
    """This problem can't be searched; others can."""


class PromptTooLong(ProblemError):
    """The prompt leaves no room in the policy's context."""


class LateError(ProblemError, TimeoutError):
    """A problem was not done in its time."""


class ReplicaError(HeadraceError):
    """A replica died or made no progress within its deadline."""


class PoolExhausted(ReplicaError):
    """Every replica of a pool is gone and restarting failed."""


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure of a task group, the one that cancelled the rest."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
