"""Helpers shared by the scripts and the operators."""
