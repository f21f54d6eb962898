"""Prompt corpora: templates, tasks, tokenizer, materialization to Parquet."""
