"""Check once whether the Hugging Face hub answers: if not, its client would retry for every file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

#: A hub that takes longer than this to answer one look-up counts as unreachable.
LOOK_UP_SECONDS: Final = 5.0


class Hub:
    """Decide how to load the model ``name``: ``options`` for the loader, and the reason when loading fails.

    A folder needs no hub. If the hub does not answer one look-up, models are loaded from its client's cache on this
    machine, without another attempt to reach it.
    """

    def __init__(self, name: str) -> None:
        self._unreachable = None if Path(name).expanduser().is_dir() else _unreachable(name)

    @property
    def options(self) -> dict[str, Any]:
        """Return keyword arguments for `from_pretrained` and for sentence-transformers' models."""
        return {"local_files_only": True} if self._unreachable else {}

    def reason(self, error: Exception) -> str:
        """Explain in one line why loading failed."""
        if self._unreachable:
            return f"it is not whole in this machine's cache, and the hub does not answer: {self._unreachable}"
        return first_line(error)


def _unreachable(name: str) -> str | None:
    """Return why the hub does not answer, or None if it does, even if only to report that there is no such model."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=LOOK_UP_SECONDS)
    except (HfHubHTTPError, HFValidationError):
        return None
    except Exception as error:
        # Network errors come from whichever HTTP library the client uses.
        return first_line(error)
    return None


def first_line(error: Exception) -> str:
    """Return an error's message, cut to one line of 150 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:150].rstrip(".")
