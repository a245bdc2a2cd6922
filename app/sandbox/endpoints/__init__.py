"""The public API's endpoints, one module per noun."""
