"""Parts of libraries that the application replaces, and that their authors may change in any release.

When one of these fails after an update, read the code that is named, adapt it, and then the test.
"""

import inspect
import ssl
from collections.abc import Callable
from typing import Any

import uvicorn
from elastic_transport import AiohttpHttpNode, AsyncTransport, NodeConfig
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.server.protocol import Cycle, Protocol


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_uvicorn_starts_as_our_server_expects() -> None:
    """app/server/__init__.py announces the service after `startup`."""
    assert inspect.iscoroutinefunction(uvicorn.Server.startup)
    assert parameters(uvicorn.Server.startup) == ["self", "sockets"]
    assert uvicorn.Server(uvicorn.Config(lambda: None)).started is False


def test_uvicorn_parses_as_our_protocol_expects() -> None:
    """app/server/protocol.py stands before the parser, makes the cycles and keeps the timers."""
    assert parameters(HttpToolsProtocol.__init__) == ["self", "config", "server_state", "app_state", "_loop"]
    assert parameters(HttpToolsProtocol._start_asgi_task) == ["self", "cycle", "app"]
    callbacks = {name for name in vars(HttpToolsProtocol) if name.startswith("on_")}
    # A callback that is not replaced would run uvicorn's code beside ours.
    assert callbacks == {
        "on_body", "on_header", "on_headers_complete", "on_message_begin", "on_message_complete",
        "on_response_complete", "on_url",
    }  # fmt: skip
    asyncio_callbacks = {"connection_made", "connection_lost", "data_received", "pause_writing", "resume_writing"}
    replaced = (callbacks - {"on_header", "on_url"}) | asyncio_callbacks
    for name in replaced:
        assert parameters(getattr(HttpToolsProtocol, name)) == parameters(vars(Protocol)[name]), name


def test_uvicorn_makes_cycles_as_our_protocol_expects() -> None:
    """app/server/protocol.py makes it, and sends HTTP/1.0 clients no chunks."""
    assert parameters(RequestResponseCycle.__init__)[1:] == [
        "scope", "transport", "flow", "logger", "access_logger", "access_log", "default_headers", "message_event",
        "expect_100_continue", "keep_alive", "on_response",
    ]  # fmt: skip
    assert parameters(RequestResponseCycle.send) == parameters(Cycle.send)
    attributes = RequestResponseCycle.__init__.__code__.co_names
    for name in (
        "body", "chunked_encoding", "disconnected", "expected_content_length", "message_event", "more_body",
        "response_complete", "response_started", "waiting_for_100_continue",
    ):  # fmt: skip
        assert name in attributes, name
    for name in ("pause_reading", "resume_reading"):
        assert callable(getattr(FlowControl, name))
    assert {"read_paused", "write_paused"} <= set(FlowControl.__init__.__code__.co_names)


def test_elastic_transport_sends_requests_as_our_transport_expects() -> None:
    """app/store/transport.py repeats requests in the place of the library."""
    assert inspect.iscoroutinefunction(AsyncTransport.perform_request)
    options = inspect.signature(AsyncTransport.perform_request).parameters
    assert list(options) == [
        "self", "method", "target", "body", "headers", "max_retries", "retry_on_status", "retry_on_timeout",
        "request_timeout", "client_meta", "otel_span",
    ]  # fmt: skip
    assert options["request_timeout"].kind is inspect.Parameter.KEYWORD_ONLY
    assert inspect.iscoroutinefunction(AsyncTransport.close)


def test_elastic_transport_keeps_nodes_as_ours_expect() -> None:
    """app/store/node.py opens connections of its own with the library's TLS context."""
    assert AiohttpHttpNode(NodeConfig("http", "127.0.0.1", 9200))._ssl_context is None
    assert isinstance(AiohttpHttpNode(NodeConfig("https", "127.0.0.1", 9200))._ssl_context, ssl.SSLContext)
    assert parameters(AiohttpHttpNode.close) == ["self"]
