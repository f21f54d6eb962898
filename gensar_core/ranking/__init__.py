"""Candidate lists and scores -> ranks, HR and NDCG: the one scorer that every method shares."""
