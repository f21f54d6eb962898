"""Rank scored candidate lists and compute HR and NDCG, the same way for every method."""
