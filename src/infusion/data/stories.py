"""Load texts: a folder of parquet, JSON lines or plain text, or a hub dataset."""

from pathlib import Path
from typing import Any

from infusion.errors import InputError

READERS = {".parquet": "parquet", ".jsonl": "json", ".txt": "text"}
"""How `datasets` reads a file; plain text is a document per line."""
_COLUMN = "text"


def load_texts(source: str) -> tuple[list[str], list[str]]:
    """Load the training and validation texts of one source through `datasets`.

    Args:
        source: A folder with ``train*`` and ``validation*`` files of one of the kinds
            ``READERS`` names, with a column ``text``; or a hub dataset.

    Returns:
        Texts to train on, and others.

    Raises:
        InputError: The source does not exist, cannot be read, lacks a split or the
            column, holds nothing, or a text is empty.
    """
    folder = Path(source)
    if not folder.is_dir() and (folder.exists() or source.startswith((".", "/", "~"))):
        raise InputError(
            f"--data must name a folder or a hub dataset, got {source}, which is not a "
            "folder; check the path"
        )
    train, validation = (
        _of_folder(folder, split) if folder.is_dir() else _read(source, source, split)
        for split in ("train", "validation")
    )
    return train, validation


def _of_folder(folder: Path, split: str) -> list[str]:
    files = sorted(file for file in folder.glob(f"{split}*") if file.suffix in READERS)
    if not files:
        raise InputError(
            f"a folder of texts must hold {split}* files of parquet, jsonl or txt, got "
            f"none in {folder}; rename the files"
        )
    texts = []
    for file in files:
        if not file.stat().st_size:  # `datasets` 5.2 asks for `features`
            raise InputError(
                f"a file of texts must hold something, got 0 bytes in {file}; fetch it "
                "again, or remove it"
            )
        reader = READERS[file.suffix]
        texts += _read(reader, str(file), "train", data_files=str(file))
    return texts


def _read(reader: str, source: str, split: str, **more: Any) -> list[str]:
    """Read one column; whatever `datasets` raises becomes one line."""
    import datasets
    from datasets.exceptions import DatasetsError

    datasets.disable_progress_bars()
    try:
        found: Any = datasets.load_dataset(reader, split=split, **more)
        texts = list(found[_COLUMN]) if _COLUMN in found.column_names else None
    except (OSError, ValueError, DatasetsError) as error:
        cause = " ".join(str(error.__cause__ or error).split())
        raise InputError(
            f"texts must be readable parquet, JSON lines or UTF-8 text, got {source}: "
            f"{cause}; check the path, the file or the network"
        ) from error
    if texts is None:
        raise InputError(
            f"texts must stand in a column {_COLUMN!r}, got {found.column_names} in "
            f"{source}; rename the column"
        )
    if not texts:
        raise InputError(
            f"there must be at least one text, got none in {source}; add some"
        )
    for row, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f"a text must hold something, got {text!r} in row {row} of {source}; "
                "leave it out"
            )
    return texts
