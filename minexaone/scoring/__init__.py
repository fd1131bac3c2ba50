"""Judging a model by its replies: samples, verifiers, scores. Below training, which uses it."""
