"""A stand-in for OpenMeter: events in, webhooks and answers of its query and customer API out.

Start with `side.OpenMeterSide`; `serving.serving` puts it on a real port, `serving.client_of` asks
it in-process. It shares no code with what it stands opposite to.
"""
