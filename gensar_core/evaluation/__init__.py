"""Ranks -> metric tables and figures."""
