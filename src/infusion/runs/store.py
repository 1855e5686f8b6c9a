"""A run folder: every artefact with the inputs it was made from.

An artefact ``NAME`` is a file plus ``NAME.record.json`` holding the sha256 of the file
and of the inputs it was made from. Both are written under a temporary name and then
renamed, the record last: an artefact without a record was interrupted and is made
again; one whose bytes or inputs differ is refused, never overwritten.
"""

import dataclasses
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infusion.configs import as_plain
from infusion.errors import ArtefactError
from infusion.runs.files import ALTERED, PART, check_size, small_file

if TYPE_CHECKING:
    from torch import Tensor

RECORD = ".record.json"


def digest(value: Any) -> str:
    """Hash a JSON value, or a dataclass of JSON values.

    Args:
        value: Keys are sorted first, so that their order does not matter.

    Returns:
        sha256 hex digest.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = as_plain(value)
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def json_bytes(value: Any) -> bytes:
    """Write a JSON value the one way that makes equal values equal bytes.

    Args:
        value: Holds no NaN and no infinity.

    Returns:
        Indented UTF-8 with sorted keys.
    """
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False)
    return (text + "\n").encode()


def file_sha256(path: Path) -> str:
    """Hash a file's bytes.

    Args:
        path: An existing file.

    Returns:
        sha256 hex digest.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Args:
        path: Its folder is made if needed; an existing file is replaced.
        content: Bytes to write.

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:  # a full disk, a folder of that name, a signal
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def environment() -> dict[str, str | int | None]:
    """Describe what a result ran on: bits differ between processors and builds.

    Returns:
        Versions and processor; no paths and no host name.
    """
    import torch

    return {
        "infusion": version("infusion-lab"),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


@dataclass(frozen=True)
class Store:
    """One run folder.

    Attributes:
        root: The folder; made on first write.
    """

    root: Path

    def json(
        self,
        name: str,
        inputs: Any,
        make: Callable[[], Any],
    ) -> Any:
        """Return a stored JSON value, or make and store it.

        Args:
            name: File name inside the folder.
            inputs: JSON value that decides the artefact; other inputs are refused.
            make: Called only if there is no finished artefact.

        Returns:
            The value, read back from its file.

        Raises:
            ArtefactError: The stored file was altered or has other inputs.
        """
        if not self.has(name, inputs):
            self._finish(name, inputs, json_bytes(make()))
        return self.read_json(name)

    def tensors(
        self,
        name: str,
        inputs: Any,
        make: Callable[[], dict[str, "Tensor"]],
    ) -> dict[str, "Tensor"]:
        """Return stored tensors, or make and store them.

        Args:
            name: File name inside the folder, ending in ``.safetensors``.
            inputs: JSON value that decides the artefact; other inputs are refused.
            make: Called only if there is no finished artefact.

        Returns:
            The tensors, read back from their file.

        Raises:
            ArtefactError: The stored file was altered or has other inputs.
        """
        from safetensors.torch import save

        if not self.has(name, inputs):
            tensors = {k: v.contiguous() for k, v in make().items()}
            self._finish(name, inputs, save(tensors))
        return self.read_tensors(name)

    def file(self, name: str, inputs: Any, make: Callable[[], bytes]) -> bytes:
        """Return a stored file's bytes, or make and store them.

        Args:
            name: File name inside the folder.
            inputs: JSON value that decides the artefact; other inputs are refused.
            make: Called only if there is no finished artefact.

        Returns:
            The bytes of the file.

        Raises:
            ArtefactError: The stored file was altered or has other inputs.
        """
        if not self.has(name, inputs):
            self._finish(name, inputs, make())
        return self._whole(name)

    def derive(self, name: str, content: bytes) -> None:
        """Write what finished artefacts alone decide, anew on every run.

        Args:
            name: File name inside the folder.
            content: Replaces a stored one of other content, as a newer version of
                this package may derive it.

        Raises:
            ArtefactError: The stored file was altered.
        """
        if self.is_finished(name):
            record = self._verified(name)
            if record["sha256"] == hashlib.sha256(content).hexdigest():
                return
        (self.root / (name + RECORD)).unlink(missing_ok=True)
        self._finish(name, None, content)

    def has(self, name: str, inputs: Any) -> bool:
        """Tell whether a finished artefact made from these inputs is there.

        Args:
            name: File name inside the folder.
            inputs: JSON value that decides the artefact.

        Returns:
            False where there is none, or an interrupted one.

        Raises:
            ArtefactError: The stored file was altered or has other inputs.
        """
        if not self.is_finished(name):
            return False
        if self._record(name)["inputs_sha256"] != digest(inputs):
            raise ArtefactError(
                f"a stored {name} must have been made from the inputs of this run, got "
                f"others in {self.root}; choose another --out or remove the folder"
            )
        return True

    def is_finished(self, name: str) -> bool:
        """Tell whether an artefact was written to the end, whatever its inputs.

        Args:
            name: File name inside the folder.

        Returns:
            False where there is none, or an interrupted one.

        Raises:
            ArtefactError: The stored file was altered.
        """
        if not (self.root / (name + RECORD)).exists():
            return False
        self._verified(name)
        return True

    def sha256(self, name: str) -> str:
        """Return the recorded hash of a finished artefact.

        Args:
            name: File name inside the folder.

        Returns:
            sha256 hex digest of its bytes.
        """
        return self._record(name)["sha256"]

    def read_json(self, name: str) -> Any:
        """Read a finished JSON artefact.

        Args:
            name: File name inside the folder.

        Returns:
            Its value.

        Raises:
            ArtefactError: It is missing, interrupted or altered.
        """
        return json.loads(self._whole(name))

    def read_tensors(self, name: str) -> dict[str, "Tensor"]:
        """Read a finished tensor artefact.

        Args:
            name: File name inside the folder.

        Returns:
            Its tensors.

        Raises:
            ArtefactError: It is missing, interrupted or altered.
        """
        from safetensors.torch import load

        return load(self._whole(name))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add a block's wall time to a stage in ``times.json``.

        Args:
            stage: Name of the stage.

        Yields:
            Nothing.

        Raises:
            ArtefactError: The file was altered.
        """
        self.read_times()  # an altered file is refused before the work
        start = time.monotonic()
        yield
        self.add_time(stage, time.monotonic() - start)

    def add_time(self, stage: str, seconds: float) -> None:
        """Add time to a stage in ``times.json``.

        Args:
            stage: Name of the stage.
            seconds: Of one stretch of it, or of the jobs that did it, summed.

        Raises:
            ArtefactError: The file was altered.
        """
        times = self.read_times()
        times[stage] = round(times.get(stage, 0.0) + seconds, 3)
        write_whole(self.root / "times.json", json_bytes(times))

    def read_times(self) -> dict[str, float]:
        """Read ``times.json``.

        Returns:
            Stage to seconds; empty before the first.

        Raises:
            ArtefactError: The file was altered.
        """
        path = self.root / "times.json"
        try:
            times = json.loads(small_file(path)) if path.exists() else {}
            return {stage: float(seconds) for stage, seconds in times.items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise ArtefactError(
                f"{path} must hold a JSON object of seconds, got a truncated or "
                "altered file; restore or remove it"
            ) from error

    def _record(self, name: str) -> dict[str, str]:
        path = self.root / (name + RECORD)
        if not path.exists():
            raise ArtefactError(
                f"the run folder must hold a finished {name}, got none in {self.root}; "
                "run `infusion run` on that folder first"
            )
        try:
            record = json.loads(small_file(path))
            hashes = {key: str(record[key]) for key in ("sha256", "inputs_sha256")}
            size = record.get("bytes")  # none in those of earlier versions
            return hashes if size is None else {**hashes, "bytes": str(int(size))}
        except ALTERED as error:
            raise ArtefactError(
                f"{path} must be JSON with two hashes, got a truncated or altered "
                "file; restore it or remove the run folder"
            ) from error

    def _verified(self, name: str) -> dict[str, str]:
        record, path = self._record(name), self.root / name
        got = "no file"
        if path.exists():
            size = str(path.stat().st_size)
            is_whole = record.get("bytes", size) == size
            # not hashed where that tells, as it may be a terabyte
            got = file_sha256(path) if is_whole else f"{int(size):,} bytes"
        if got != record["sha256"]:
            raise ArtefactError(
                f"{path} must have sha256 {record['sha256'][:12]}…, got {got[:18]}: it "
                "was truncated or altered; restore it or remove the run folder"
            )
        return record

    def _whole(self, name: str) -> bytes:
        """Read an artefact that fits into memory."""
        path = self.root / name
        if path.exists():
            check_size(path)
        self._verified(name)
        return path.read_bytes()

    def _finish(self, name: str, inputs: Any, content: bytes) -> None:
        record = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "inputs_sha256": digest(inputs),
            "bytes": len(content),
        }
        write_whole(self.root / name, content)
        write_whole(self.root / (name + RECORD), (json.dumps(record) + "\n").encode())
