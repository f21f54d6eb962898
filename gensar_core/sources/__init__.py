"""Turn raw logs into canonical tables (users, items, queries, events), one file or folder a source."""
