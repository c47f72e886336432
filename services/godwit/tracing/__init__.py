"""Traces: the spans of the facts that a service writes, sent by OpenTelemetry. Off by default."""
