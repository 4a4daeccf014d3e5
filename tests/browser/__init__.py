"""Calls made by real browsers; slow, and skipped where a browser is missing."""
