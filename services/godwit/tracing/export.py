"""Sends spans to an OpenTelemetry collector, by OTLP over HTTP, in a thread of the library's own.

Where to, and how, is the library's to read from its own variables (``OTEL_EXPORTER_OTLP_ENDPOINT``
and its like). Knows nothing of what a span is made from. The library is an optional part: it is
imported here alone, and this module only by a service that is to trace.
"""

from __future__ import annotations

import asyncio
from threading import Thread
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator

from godwit_protocol.events import Recorded
from godwit_protocol.spans import Span, Spans

CLOSE_S_MAX: Final = 3.0
"""How long a service that ends waits for its last spans to go out."""
_SCOPE: Final = "godwit"


class _GivenIds(IdGenerator):
    """Gives the ids of the span that is being made: they come from the events."""

    def __init__(self) -> None:
        self.trace_id = 0
        self.span_id = 0

    def generate_trace_id(self) -> int:
        """The trace's."""
        return self.trace_id

    def generate_span_id(self) -> int:
        """The span's."""
        return self.span_id


class Tracer:
    """Makes spans of a service's facts and sends them. Belongs to one event loop."""

    def __init__(
        self, service: str, version: str, host: str = "", exporter: SpanExporter | None = None
    ) -> None:
        """``exporter`` None: by OTLP over HTTP, as the environment says."""
        named = {"service.name": f"godwit-{service}", "service.version": version}
        resource = Resource.create({**named, **({"host.name": host} if host else {})})
        self._ids = _GivenIds()
        self._provider = TracerProvider(
            resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(_SCOPE, version)
        self._spans = Spans()

    def learn(self, recorded: Recorded) -> None:
        """Take a fact that the service wrote, in the order of writing."""
        for span in self._spans.of(recorded):
            self._send(span)

    async def close(self) -> None:
        """Send what is left, for ``CLOSE_S_MAX`` at most."""
        closing = Thread(target=self._provider.shutdown, daemon=True, name="tracing-close")
        closing.start()
        await asyncio.to_thread(closing.join, CLOSE_S_MAX)

    def _send(self, span: Span) -> None:
        self._ids.trace_id, self._ids.span_id = span.trace_id, span.span_id
        made = self._tracer.start_span(
            span.phase,
            context=_parent(span),
            attributes=span.attributes,
            links=[trace.Link(_context(span.trace_id, link)) for link in span.links],
            start_time=span.start_ns,
        )
        if span.failure:
            made.set_status(trace.Status(trace.StatusCode.ERROR, span.failure))
        made.end(span.end_ns)


def _parent(span: Span) -> otel_context.Context:
    if not span.parent_id:
        return otel_context.Context()
    parent = trace.NonRecordingSpan(_context(span.trace_id, span.parent_id))
    return trace.set_span_in_context(parent, otel_context.Context())


def _context(trace_id: int, span_id: int) -> trace.SpanContext:
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    return trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)
