"""Run the service until it is told to stop."""

from __future__ import annotations

from pathlib import Path

import uvicorn

from gensar_core.runtime.progress import say
from gensar_core.service.app import Service, create_app

#: Seconds that a stopping service gives to the requests it has accepted.
_SECONDS_TO_END = 30


def run_service(
    dataset: Path, name: str | None, host: str, port: int, *, beams: int, batch: int, most_waiting: int
) -> None:
    """Serve a generator; on SIGINT or SIGTERM, answer what has been asked, then return.

    Raises UserError when the generator cannot be served.
    """
    service = Service.open(dataset, name, beams=beams, batch=batch, most_waiting=most_waiting)
    say(f"serving {service.model.name} of {dataset} at http://{host}:{port}")
    config = uvicorn.Config(
        create_app(service),
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    uvicorn.Server(config).run()
