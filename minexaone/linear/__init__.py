"""What may stand in the place of `nn.Linear`; the only place that reads a projection's weight."""
