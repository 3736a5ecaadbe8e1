"""Train many models at once and keep them all."""
