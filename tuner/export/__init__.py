"""The formats that a trained model is written in, and the proof of each."""
