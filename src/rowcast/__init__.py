"""Rowcast."""
