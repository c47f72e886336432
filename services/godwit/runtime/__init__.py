"""What every service stands on: event log, outbox, journal, configuration, telemetry, health."""
