"""Embed items and queries with text encoders, and items with trained sequential models."""
