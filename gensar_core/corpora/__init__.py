"""Build prompt corpora: templates, tasks, tokenizer, materialization to Parquet."""
