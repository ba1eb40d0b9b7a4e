"""What a net or an artifact predicts, and how well it agrees with its reference."""
