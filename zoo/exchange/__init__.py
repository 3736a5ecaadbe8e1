"""Weights come in from anywhere and go out to anyone; nothing that comes in is trusted."""
