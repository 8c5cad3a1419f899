"""From a trained network to probabilities, scores, tables and pictures."""
