"""How a command ends: the exit codes of `nas`, and which errors lead to which."""

from __future__ import annotations

EXIT_CODES = """exit codes:
  0    done
  2    a mistake in what was asked: file, setting, name, folder, port
  3    infeasible: no architecture, or no candidate, keeps the constraints
  4    the work failed: training diverged, every evaluation fails, workers died
  5    verification failed: an export is not the network that was searched
  130  interrupted; the same command goes on where it stopped
"""
OK, MISTAKE, INFEASIBLE, FAILED, UNVERIFIED, INTERRUPTED = 0, 2, 3, 4, 5, 130


def exit_code(error: Exception) -> int | None:
    """The exit code of an error that a person can do something about; None for our own mistakes."""
    named = {"Infeasible": INFEASIBLE, "VerificationFailed": UNVERIFIED}
    named |= dict.fromkeys(("Diverged", "SearchFailed", "WorkersFailed"), FAILED) | {"Busy": MISTAKE}
    for kind in type(error).__mro__:
        if kind.__name__ in named:
            return named[kind.__name__]
    if isinstance(error, KeyError | IndexError):
        return None
    return MISTAKE if isinstance(error, ValueError | LookupError | OSError) else None
