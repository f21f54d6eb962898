"""Ranking methods to compare with, one file a method."""
