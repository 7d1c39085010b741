"""Training of the adapters: recipe, losses, loop."""
