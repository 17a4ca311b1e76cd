"""What stays on disk: run folders, checkpoints, sealed folders, locks."""
