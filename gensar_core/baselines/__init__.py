"""Rank candidates by methods to compare with: what a method is, how one runs, the methods, and what they share."""
