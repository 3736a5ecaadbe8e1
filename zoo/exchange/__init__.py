"""Weights come in from anywhere and go out to anyone; nothing that comes in is trusted.

The readers, the writers and the copying between two registries import torch when they need it.
"""
