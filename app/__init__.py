"""meterbridge: carries OpenMeter usage webhooks into Stripe's legacy usage records."""

__version__ = "0.1.0"
