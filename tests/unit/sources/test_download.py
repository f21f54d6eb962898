"""Downloads: whole files or one line that tells what to do; broken-off ones are continued."""

import gzip
import http.server
import os
import socket
import threading

import pytest

from gensar_core.errors import UserError
from gensar_core.sources.amazon import download as download_module
from gensar_core.sources.amazon.download import download_amazon, download_product_search

REVIEWS, METADATA = "reviews_Toys_5.json.gz", "meta_Toys.json.gz"
CONTENT = {
    f"/{REVIEWS}": gzip.compress(b"".join(os.urandom(20).hex().encode() + b"\n" for _ in range(2000)), mtime=0),
    f"/{METADATA}": gzip.compress(b"{'asin': 'a'}\n", mtime=0),
}


class Home:
    """A web server with two raw files that can break off, refuse ranges or serve something else."""

    def __init__(self) -> None:
        self.content = dict(CONTENT)
        self.ranges = True
        self.break_off_at: list[int] = []
        self.requests: list[tuple[str, str | None]] = []
        home = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                home.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.requests.append((request.path, wanted))
        body = self.content.get(request.path)
        if body is None:
            request.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        if start >= len(body):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        part = body[start:]
        request.wfile.write(part[: self.break_off_at.pop(0)] if self.break_off_at else part)


@pytest.fixture
def home():
    home = Home()
    yield home
    home.server.shutdown()
    home.server.server_close()


def download(folder, url, names=(REVIEWS, METADATA)):
    for name in names:
        download_amazon("Toys", "amazon", name, folder, url)


def whole(folder):
    return {f"/{file.name}": file.read_bytes() for file in folder.iterdir()} == CONTENT


@pytest.mark.parametrize(
    ("break_off_at", "ranges", "partial", "requests"),
    [
        ([], True, b"", [None]),
        ([5000, 3000], True, b"", [None, "bytes=5000-", "bytes=8000-"]),
        ([5000], False, b"", [None, "bytes=5000-"]),
        ([], True, CONTENT[f"/{REVIEWS}"], [f"bytes={len(CONTENT[f'/{REVIEWS}'])}-"]),
    ],
    ids=["at once", "broken off twice", "no ranges", "already whole"],
)
def test_files_arrive_whole_and_are_not_fetched_again(home, tmp_path, break_off_at, ranges, partial, requests):
    home.break_off_at, home.ranges = break_off_at, ranges
    if partial:
        (tmp_path / f".{REVIEWS}.partial").write_bytes(partial)
    for _ in range(2):
        download(tmp_path, home.url)
        assert whole(tmp_path)
        assert home.requests == [*((f"/{REVIEWS}", wanted) for wanted in requests), (f"/{METADATA}", None)]


def test_next_call_continues_a_partial_file(home, tmp_path):
    home.break_off_at = [4000, 0, 0]
    with pytest.raises(UserError, match="cannot be downloaded"):
        download(tmp_path, home.url)
    assert not (tmp_path / REVIEWS).exists()
    download(tmp_path, home.url)
    assert whole(tmp_path)
    assert home.requests[3] == (f"/{REVIEWS}", "bytes=4000-")


@pytest.mark.parametrize(
    "content",
    [b"<html>Sorry</html>", CONTENT[f"/{REVIEWS}"][:-20], gzip.compress(b"", mtime=0)],
    ids=["a page", "a beginning", "nothing"],
)
def test_file_that_is_no_whole_gzip_file_is_removed(home, tmp_path, content):
    home.content[f"/{REVIEWS}"] = content
    with pytest.raises(UserError, match=f"{home.url}{REVIEWS}: what came is no whole gzip file and was removed"):
        download(tmp_path, home.url)
    assert list(tmp_path.iterdir()) == []
    home.content = dict(CONTENT)
    download(tmp_path, home.url)
    assert whole(tmp_path)


def test_failed_download_is_one_line_that_says_which_files_to_put_where(home, tmp_path):
    with pytest.raises(UserError, match=r"reviews_Toy_5\.json\.gz: cannot be downloaded \(HTTP 404 Not Found\)"):
        download(tmp_path, home.url, ["reviews_Toy_5.json.gz"])
    assert len(home.requests) == 1
    with pytest.raises(UserError, match="cannot be downloaded"):
        download(tmp_path, "http://nowhere.invalid/")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UserError) as caught:
            download(tmp_path, url)
    assert str(caught.value) == (
        f"{url}/{REVIEWS}: cannot be downloaded (Connection refused); put {REVIEWS} and the category's other raw "
        "files into a folder by hand and set datasets.<name>.raw to that folder"
    )


def test_files_of_every_release_come_from_their_public_homes(tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(download_module, "_download", lambda urls, *_: fetched.extend(urls))
    for folder, name in (
        ("amazon", "reviews_Toys.json.gz"),
        ("amazon_2018", "Toys_5.json.gz"),
        ("amazon_2023", "Toys.jsonl.gz"),
    ):
        download_amazon("Toys", folder, name, tmp_path)
    download_amazon("Toys", "amazon_2023", "meta_Toys.jsonl.gz", tmp_path)
    assert fetched == [
        "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/reviews_Toys.json.gz",
        "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/categoryFilesSmall/Toys_5.json.gz",
        "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw/review_categories/Toys.jsonl.gz",
        "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw/meta_categories/meta_Toys.jsonl.gz",
    ]


def test_product_search_files_come_from_their_category_folder(home, tmp_path):
    names = ("query_text.txt.gz", "train.qrels.gz", "test.qrels.gz")
    home.content = {f"/reviews_Toys_5.json.gz/{name}": gzip.compress(name.encode(), mtime=0) for name in names}
    download_product_search("Toys", tmp_path, home.url)
    assert {path.name: gzip.decompress(path.read_bytes()).decode() for path in tmp_path.iterdir()} == dict(
        zip(names, names, strict=True)
    )
