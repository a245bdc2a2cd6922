"""What the `meterbridge` command does, one module per verb that needs more than a call."""
