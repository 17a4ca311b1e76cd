"""Reload an artefact in a fresh process and compare it with what was trained."""
