"""Turns of a conversation as rows have them: their keys, reasoning and tool calls."""
