"""The histories of runs, written for trackers; the registry keeps them, training knows nothing."""
