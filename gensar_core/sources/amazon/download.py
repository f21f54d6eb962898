"""Download raw Amazon files from their public homes.

Reviews and metadata are those of a release (releases.py); Ai et al. (SIGIR 2017) publish product-search files for some
categories of 2014.
"""

from __future__ import annotations

import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from gensar_core.errors import UserError
from gensar_core.runtime.progress import progress, say
from gensar_core.sources.amazon import product_search
from gensar_core.sources.amazon.releases import RELEASES, raw_folder, raw_homes
from gensar_core.sources.shared.lines import blocks

PRODUCT_SEARCH_HOME = "https://raw.githubusercontent.com/QingyaoAi/Amazon-Product-Search-Datasets/master/"
#: Categories for which Ai et al. publish product-search files.
PRODUCT_SEARCH_CATEGORIES: Final = (
    "CDs_and_Vinyl",
    "Cell_Phones_and_Accessories",
    "Electronics",
    "Kindle_Store",
)
_PIECE = 1 << 20
_ATTEMPTS = 3
_TIMEOUT = 60.0

# Failures of the connection. A full disk, also an OSError, is not one of them.
_NETWORK_ERRORS = (urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException)


def download_amazon(category: str, folder: str, name: str, output: Path, home: str | None = None) -> None:
    """Download one of a category's raw files into ``output``, leaving an existing file as it is.

    A file appears only once it is complete, a valid gzip file from start to end; the next call resumes an interrupted
    download. ``folder`` names the release (``raw_folder``), ``home`` another place of the file than its public one.
    Raises UserError saying which files to put where when it cannot be reached or lacks the category.
    """
    release = next(release for release in RELEASES if raw_folder(release) == folder)
    url = raw_homes(category, release)[name] if home is None else f"{home.rstrip('/')}/{name}"
    _download([url], output, f"{name} and the category's other raw files")


def download_product_search(category: str, output: Path, home: str = PRODUCT_SEARCH_HOME) -> None:
    """Download a category's product-search files into ``output``, as ``download_amazon`` does."""
    urls = [f"{home.rstrip('/')}/reviews_{category}_5.json.gz/{name}" for name in product_search.FILES]
    _download(urls, output, " and ".join(product_search.FILES))


def _download(urls: Sequence[str], output: Path, needed: str) -> None:
    output.mkdir(parents=True, exist_ok=True)
    by_hand = f"put {needed} into a folder by hand and set datasets.<name>.raw to that folder"
    for url in urls:
        name = url.rpartition("/")[2]
        if (output / name).is_file():
            continue
        partial = output / f".{name}.partial"
        try:
            _fetch(url, partial)
        except _NETWORK_ERRORS as error:
            raise UserError(f"{url}: cannot be downloaded ({_reason(error)}); {by_hand}") from None
        if not _is_whole(partial):
            partial.unlink(missing_ok=True)
            raise UserError(f"{url}: what came is no whole gzip file and was removed; run again, or {by_hand}")
        os.replace(partial, output / name)


def _fetch(url: str, partial: Path) -> None:
    """Download ``url``, resuming from the content of ``partial``; retry when the connection breaks off."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _continue(url, partial)
        except urllib.error.HTTPError:
            raise
        except _NETWORK_ERRORS as error:
            if attempt == _ATTEMPTS:
                raise
            say(f"{url}: {_reason(error)}; trying again")
    return None


def _continue(url: str, partial: Path) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            # The server has no further bytes: the file is complete or another one, which the gzip check reveals.
            return
        raise
    with response:
        if response.status != 206:
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        with partial.open("ab" if have else "wb") as file:
            pieces = -(-total // _PIECE) if total is not None else None
            for piece in progress(_pieces(response), url.rpartition("/")[2], pieces, unit="MB", initial=have // _PIECE):
                file.write(piece)
    if total is not None and partial.stat().st_size < total:
        raise ConnectionError("the connection broke off")


def _pieces(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while piece := response.read(_PIECE):
        yield piece


def _is_whole(path: Path) -> bool:
    """Return whether a file is valid gzip from start to end, and not empty."""
    try:
        for _ in blocks(path):
            pass
    except UserError:
        return False
    return True


def _reason(error: BaseException) -> str:
    """Describe the cause of a network error in a few words."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    cause = getattr(error, "reason", None) or error
    return str(getattr(cause, "strerror", None) or cause) or type(cause).__name__
