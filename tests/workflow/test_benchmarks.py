"""Every benchmark runs in its smoke size and makes the claims it is there for."""

import json
import subprocess

import pytest
import torch

from gensar_core.runtime.device import has_bfloat16

from .planning import ROOT

#: Benchmark -> claims that must be among those of its last line.
CLAIMS = {
    "event_log": {"peak_gb_canonical", "cpu_seconds_canonical", "peak_gb_training_negatives"},
    "data": {"seconds_electronics", "peak_gb_electronics", "speedup_rowwise"},
    "identifiers": {"speedup_plain_loop", "assign_1m_seconds", "assign_1m_gb"},
    "bm25": {"seconds_bm25", "search_seconds", "peak_gb", "speedup_bm25s"},
    "corpora": {"speedup_collator"},
    "batches": {"peak_gb", "rows_per_second", "ready_seconds"},
    "targets": {"peak_gb_rank_generator", "peak_gb_fuse", "peak_gb_table", "peak_gb_method", "peak_gb_train_qem"},
    "training": {"speedup_trainer", "speedup_one_pass", "targets_per_second_one_pass"},
    "ranking": {"speedup_t5_small", "speedup_small", "speedup_causal_small"},
    "retrieval": {"speedup_prefix_fn", "trie_share_12k", "trie_share_1m", "speedup_causal_small"},
    "gpu": {"tokens_per_second_one_pass", "speedup_generate", "p99_search_1m_1_10", "p99_long_history_catalogue_1"},
    "serving": {"speedup_causal_8", "speedup_small_8"},
    "sequential_quality": {"recall_at_10", "ndcg_at_10"},
    "sequential": {"speedup_public_training", "speedup_public_ranking"},
}
#: Files whose names begin with an underscore hold what benchmarks share.
BENCHMARKS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if not path.name.startswith("_"))


@pytest.mark.long
@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_ends_in_its_claims(path, tmp_path, ready_python):
    done = subprocess.run(
        [str(ready_python), str(path), "--quick"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["benchmark"] == path.stem
    assert last["machine"]["cores"] >= 1
    claims = {entry["name"]: entry for entry in last["claims"]}
    assert set(claims) >= CLAIMS[path.stem]
    if path.stem in ("ranking", "retrieval"):
        # Emulated, these numbers say nothing.
        assert any("bfloat16" in name for name in claims) == has_bfloat16(torch.device("cpu"))
    for entry in claims.values():
        assert set(entry) == {"name", "value", "unit", "how"}
        assert entry["value"] > 0
        assert entry["unit"]
        assert entry["how"]
