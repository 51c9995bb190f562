"""Every error that Edgeferry raises on purpose.

Each error says three things: the subject (which file, option, tensor or device), the reason, and the
way out. The command line prints them as one line and exits with the error's `exit_code`::

    EdgeferryError                       1
    ├── UsageError (ValueError)          2   an option or recipe value is wrong
    │   └── UnknownNameError             2   ... lists the valid names and the nearest match
    ├── MissingFileError (FileNotFoundError)
    ├── OutputExistsError (FileExistsError)
    ├── MissingExtraError (ImportError)      prints the exact pip line
    ├── ArtifactError (ValueError)           a model file that cannot be used
    │   ├── UnknownFormatError               none of the known formats
    │   ├── CorruptFileError                 truncated or lying
    │   └── UnsafeFileError                  would execute code: a pickle where weights were expected
    ├── DataError (ValueError)               calibration, probe or input data: name, shape, dtype or range
    ├── BundleError (ValueError)             a bundle folder that is not what its manifest says
    ├── ConversionError (RuntimeError)       a framework's converter refused
    ├── TrainingError (ArithmeticError)      a loss that is not finite, or a target that cannot be reached
    ├── EngineError (RuntimeError)           the engine refused to load or run
    │   ├── EngineCrashError                 the engine's process died
    │   └── PartialDelegationError           a delegate cannot take every node, and runs with no other
    ├── NotTriedError                        a device left alone, since one before it failed
    ├── GateError                        3   a condition did not hold
    │   ├── VerificationError            3   outputs differ by more than the tolerance
    │   └── DelegationError              3   a delegate did not take every node
    └── DeviceError (OSError)            4   a device that cannot be reached, or that refuses
        ├── UnreachableError (ConnectionError)
        ├── AuthenticationError (PermissionError)
        ├── HostKeyError                     unknown or changed host key
        ├── DeviceBusyError                  another command holds the device's lock
        ├── DeviceRequirementError           no Python, no space, no writable folder, no engine
        ├── DeviceTimeoutError (TimeoutError)
        └── RemoteCommandError               host, command, exit status, stdout, stderr
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class EdgeferryError(Exception):
    """Base of all expected errors.

    Args:
        subject: The thing that the error is about, as the user knows it.
        reason: What is wrong with it, without a final full stop.
        fix: What the user can do about it; an imperative clause without a final full stop.
    """

    exit_code = 1

    def __init__(self, subject: object, reason: str, fix: str) -> None:
        self.subject = str(subject)
        self.reason = reason
        self.fix = fix
        Exception.__init__(self, f"{self.subject}: {reason}; {fix}")

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[type[EdgeferryError], tuple[str, str, str]]:
        return type(self), (self.subject, self.reason, self.fix)


class UsageError(EdgeferryError, ValueError):
    """An option, argument or recipe value is wrong."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not one of the valid ones.

    Args:
        subject: What was being named, such as ``--quantize`` or ``recipe key``.
        name: What was given.
        valid: All names that would have been accepted.
        otherwise: What else the user can do, such as make the name known.
    """

    def __init__(self, subject: object, name: str, valid: Iterable[str], otherwise: str = "") -> None:
        import difflib

        self.name = name
        self.valid = tuple(valid)
        self.otherwise = otherwise
        nearest = difflib.get_close_matches(name, self.valid, n=1, cutoff=0.5)
        meant = f"did you mean {nearest[0]!r}? " if nearest else ""
        also = f"; {otherwise}" if otherwise else ""
        known = f"valid are {', '.join(self.valid)}" if self.valid else "there is none yet"
        super().__init__(subject, f"unknown name {name!r}", f"{meant}{known}{also}")

    def __reduce__(self) -> tuple[type[EdgeferryError], tuple[str, str, tuple[str, ...], str]]:  # type: ignore[override]
        return type(self), (self.subject, self.name, self.valid, self.otherwise)


class MissingFileError(EdgeferryError, FileNotFoundError):
    """A file or folder that should exist does not."""


class OutputExistsError(EdgeferryError, FileExistsError):
    """The output path exists and was not made by Edgeferry."""


class MissingExtraError(EdgeferryError, ImportError):
    """An optional dependency is not installed.

    Args:
        subject: What needed it.
        extra: The extra of the ``edgeferry`` distribution that brings it.
        module: The module that could not be imported.
    """

    def __init__(self, subject: object, extra: str, module: str) -> None:
        self.extra = extra
        self.module = module
        super().__init__(subject, f"needs {module}, which is not installed", f"run: pip install 'edgeferry[{extra}]'")

    def __reduce__(self) -> tuple[type[EdgeferryError], tuple[str, str, str]]:
        return type(self), (self.subject, self.extra, self.module)


class ArtifactError(EdgeferryError, ValueError):
    """A model file that cannot be used."""


class UnknownFormatError(ArtifactError):
    """A file that is none of the formats that Edgeferry reads."""


class CorruptFileError(ArtifactError):
    """A file that is truncated, or whose content contradicts itself."""


class UnsafeFileError(ArtifactError):
    """A file that would execute code when loaded."""


class DataError(EdgeferryError, ValueError):
    """Input, calibration or probe data of the wrong name, shape, dtype or range."""


class BundleError(EdgeferryError, ValueError):
    """A bundle folder that is not what its manifest says."""


class ConversionError(EdgeferryError, RuntimeError):
    """A framework's converter refused the model."""


class TrainingError(EdgeferryError, ArithmeticError):
    """Training went wrong: the loss is not finite, or a target cannot be reached."""


class EngineError(EdgeferryError, RuntimeError):
    """An engine refused to load or to run an artifact."""


class EngineCrashError(EngineError):
    """The process of an engine died while it held an artifact."""


class PartialDelegationError(EngineError):
    """A delegate cannot take every node, and cannot share them with the CPU."""


class NotTriedError(EdgeferryError):
    """Nothing was begun on a device, since one that came before it failed."""


class GateError(EdgeferryError):
    """A condition that the user set did not hold."""

    exit_code = 3


class VerificationError(GateError):
    """Outputs differ from the reference by more than the tolerance."""


class DelegationError(GateError):
    """A delegate did not take every node, where the user required it."""


class DeviceError(EdgeferryError, OSError):
    """A device that cannot be reached, or that refuses."""

    exit_code = 4


class UnreachableError(DeviceError, ConnectionError):
    """No connection to the device could be made, or it was lost."""


class AuthenticationError(DeviceError, PermissionError):
    """The device refused every key that was offered."""


class HostKeyError(DeviceError):
    """The device's host key is unknown, or is not the pinned one."""


class DeviceBusyError(DeviceError):
    """Another command holds the device's lock."""


class DeviceRequirementError(DeviceError):
    """The device lacks what Edgeferry needs: Python, space, a writable folder, an engine."""


class DeviceTimeoutError(DeviceError, TimeoutError):
    """The device did not answer within the deadline."""


class RemoteCommandError(DeviceError):
    """A command on a device failed.

    Args:
        host: The device's name.
        command: The argument list that was executed.
        exit_status: Its exit status; negative where it was killed by a signal.
        stdout: What it printed.
        stderr: What it complained.
    """

    def __init__(self, host: str, command: Sequence[str], exit_status: int, stdout: str, stderr: str) -> None:
        self.host = host
        self.command = tuple(command)
        self.exit_status = exit_status
        self.stdout = stdout
        self.stderr = stderr
        said = (stderr.strip() or stdout.strip() or "it printed nothing").splitlines()[-1][:300]
        super().__init__(
            host,
            f"{' '.join(self.command)[:120]!r} ended with status {exit_status}: {said}",
            "see the command's output above",
        )

    def __reduce__(self) -> tuple[type[EdgeferryError], tuple[str, tuple[str, ...], int, str, str]]:  # type: ignore[override]
        return type(self), (self.host, self.command, self.exit_status, self.stdout, self.stderr)
