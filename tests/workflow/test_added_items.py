"""Items added to a trained generator are in the workflow's answers for everyone."""

import polars as pl


def test_recommendations_and_searches_return_added_items(tiny_demo, tmp_path):
    workflow = tiny_demo.copied(tmp_path)
    (tmp_path / "new.csv").write_text("raw_id,title\nNEW1,dome tent\nNEW2,wool hat\n")
    (tmp_path / "stock.txt").write_text("NEW1\nNEW2\n")
    (tmp_path / "queries.txt").write_text("dome tent\n")
    stock = {"items": "stock.txt"}
    with workflow.configuration() as values:
        values["datasets"]["demo"] |= {
            "new_items": "new.csv",
            "recommendations": stock,
            "queries": {"file": "queries.txt", **stock},
        }
    targets = [f"results/demo/{answers}/gensar_demo.parquet" for answers in ("recommendations", "searches")]
    assert workflow.planned(*targets) == {"add_items", "recommendations", "searches"}
    workflow.run(*targets)
    for target in targets:
        answers = pl.read_parquet(tmp_path / target)
        assert set(answers["item"]) == {"NEW1", "NEW2"}
        assert answers["score"].is_finite().all()
    assert workflow.planned(*targets) == set()
