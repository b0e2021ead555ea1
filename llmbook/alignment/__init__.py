"""Alignment: losses, batches and rollouts for the training engine, with no loop of their own."""
