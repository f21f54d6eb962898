"""Text vectors are kept in a cache that several checkouts share."""

from .conftest import TINY, Workflow

VECTORS = "results/demo/embeddings/minilm/vectors.safetensors"


def test_a_second_checkout_does_not_embed_again(tmp_path):
    for name in ("cache", "first", "second"):
        (tmp_path / name).mkdir()
    first, second = (Workflow(tmp_path / name, TINY) for name in ("first", "second"))
    cache = {"SNAKEMAKE_OUTPUT_CACHE": str(tmp_path / "cache")}
    for workflow in (first, second):
        workflow.run(VECTORS, options=("--cache",), **cache)
    # Snakemake leaves an empty log where a job was spared.
    logs = [workflow.folder / "results/demo/logs/embed_text_minilm.log" for workflow in (first, second)]
    assert [bool(log.read_text()) for log in logs] == [True, False]
    assert len(list((tmp_path / "cache").iterdir())) == 2
    for name in (VECTORS, VECTORS.replace("vectors.safetensors", "stage.json")):
        assert (second.folder / name).resolve() == (first.folder / name).resolve()
    assert second.planned(VECTORS) == set()

    # Another setting is another entry of the cache.
    config = second.folder / "config.yaml"
    config.write_text(config.read_text().replace("max_tokens: 128", "max_tokens: 8"))
    second.run(VECTORS, options=("--cache",), **cache)
    assert logs[1].read_text()
    assert (second.folder / VECTORS).read_bytes() != (first.folder / VECTORS).read_bytes()
