"""Turn raw logs into canonical tables (users, items, queries, events), with one file or folder per source."""
