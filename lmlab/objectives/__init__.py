"""What is predicted and what it costs."""
