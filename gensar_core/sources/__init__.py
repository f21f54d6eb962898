"""Raw logs -> canonical tables (users, items, queries, events), one file a source."""
