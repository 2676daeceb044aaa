"""Where a checkpoint lies: a folder, or a name on the Hugging Face hub that becomes a folder of its cache."""

from __future__ import annotations

import re
from pathlib import Path

from grape_policy.weights import CheckpointError

HUB_ID = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?")
# What a checkpoint consists of: no pickled weights, no code.
PATTERNS = ("*.safetensors", "*.json", "tokenizer.model")


def resolve_checkpoint(name: str | Path) -> Path:
    """The folder of a checkpoint: `name` itself, or the copy of the hub's `org/name[@revision]`, downloaded if need be.

    A folder goes first. HF_HUB_OFFLINE, HF_HOME and the other variables of huggingface_hub are honoured. Of the hub
    only safetensors, JSON and tokenizer files are taken.
    Raises CheckpointError: neither a folder nor a name of the hub; offline or unreachable and not in the cache;
    refused by the hub.
    """
    text = str(name)
    if not text:
        raise CheckpointError("no model is named")
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:  # a `~user` that is nobody
        raise CheckpointError(f"{text}: {error}") from None
    if path.is_dir():
        return path
    match = HUB_ID.fullmatch(text)
    if match is None or path.exists() or Path(text.split("/")[0]).is_dir():
        raise CheckpointError(f"{text}: no such model folder")
    return _download(text, match["repository"], match["revision"])


def _download(text: str, repository: str, revision: str | None) -> Path:
    from huggingface_hub import constants, snapshot_download  # slow to import, and not needed for a folder
    from huggingface_hub.errors import HfHubHTTPError, IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(PATTERNS)))
    except (LocalEntryNotFoundError, IncompleteSnapshotError) as error:
        part = "wholly " if isinstance(error, IncompleteSnapshotError) else ""
        state = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached"
        reason = f"it is not {part}in the cache {constants.HF_HUB_CACHE} and {state}"
    except HfHubHTTPError as error:
        reason = f"the hub refuses it: {_line(error)}"
    except Exception as error:  # the transport's errors have no base of their own
        reason = f"the download failed: {_line(error)}"
    at = f" --revision {revision}" if revision else ""
    patterns = " ".join(f"--include '{pattern}'" for pattern in PATTERNS)
    raise CheckpointError(
        f"{text}: no such model folder, and as a name of the hub: {reason}; on a machine that reaches the hub run "
        f"`hf download {repository}{at} {patterns} --local-dir FOLDER`, copy the folder here and name it"
    )


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
