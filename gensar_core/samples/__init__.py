"""Canonical tables -> prediction targets, splits, histories, candidates, and the audit of leaks."""
