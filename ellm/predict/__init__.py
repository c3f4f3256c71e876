"""What a model needs and how fast it would be, without running it."""
