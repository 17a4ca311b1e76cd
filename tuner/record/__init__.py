"""What is kept on disk: run folders, checkpoints, sealed folders, locks."""
