"""The networks' layers."""
