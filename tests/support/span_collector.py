"""An OpenTelemetry collector as small as can be: takes OTLP over HTTP and keeps the spans."""

from __future__ import annotations

import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PATH = "/v1/traces"


class Received(NamedTuple):
    """A span as it came, and the service that sent it."""

    service: str
    span: Any


class SpanCollector:
    """A context manager; ``url`` is what ``OTEL_EXPORTER_OTLP_ENDPOINT`` takes."""

    def __init__(self) -> None:
        self._came = threading.Condition()
        self._received: list[Received] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = HTTPStatus.OK if self.path == PATH else HTTPStatus.NOT_FOUND
                if status is HTTPStatus.OK:
                    collector._take(ExportTraceServiceRequest.FromString(body))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def of_trace(self, trace_id: int, names: set[str], timeout_s: float) -> list[Received]:
        """The trace's spans, once one of each name has come. Blocks."""
        wanted = trace_id.to_bytes(16, "big")

        def found() -> list[Received]:
            return [it for it in self._received if it.span.trace_id == wanted]

        with self._came:
            is_whole = self._came.wait_for(
                lambda: names <= {it.span.name for it in found()}, timeout_s
            )
            assert is_whole, f"only {sorted(it.span.name for it in found())} came"
            return found()

    def _take(self, request: ExportTraceServiceRequest) -> None:
        with self._came:
            for sent in request.resource_spans:
                named = {it.key: it.value.string_value for it in sent.resource.attributes}
                for scope in sent.scope_spans:
                    self._received += (Received(named["service.name"], it) for it in scope.spans)
            self._came.notify_all()
