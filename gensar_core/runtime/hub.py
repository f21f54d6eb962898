"""Whether the Hugging Face hub answers, asked once: without it, its client tries again and again for every file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

#: A hub that takes longer to answer one look-up is taken for unreachable.
LOOK_UP_SECONDS: Final = 5.0


class Hub:
    """How to load the model ``name``: ``options`` for the loader, and what to say when that fails.

    A folder needs no hub. Where the hub does not answer one look-up, models are loaded from what its client has kept on
    this machine, without another attempt to reach it.
    """

    def __init__(self, name: str) -> None:
        self._unreachable = None if Path(name).expanduser().is_dir() else _unreachable(name)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of `from_pretrained` and of sentence-transformers' models."""
        return {"local_files_only": True} if self._unreachable else {}

    def reason(self, error: Exception) -> str:
        """Why loading failed, in one line."""
        if self._unreachable:
            return f"it is not whole in this machine's cache, and the hub does not answer: {self._unreachable}"
        return first_line(error)


def _unreachable(name: str) -> str | None:
    """Why the hub does not answer, or None when it does, if only to say that there is no such model."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=LOOK_UP_SECONDS)
    except (HfHubHTTPError, HFValidationError):
        return None
    except Exception as error:
        # Its client's network errors come from whichever HTTP library it uses.
        return first_line(error)
    return None


def first_line(error: Exception) -> str:
    """What an error says, cut to one line of 150 letters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:150].rstrip(".")
