"""`make bench`: tuner beside trl's SFTTrainer and a plain Trainer, on the same rows and updates."""
