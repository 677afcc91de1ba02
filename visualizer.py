"""A head in the browser: `python visualizer.py`, docs/viewer.md."""

from __future__ import annotations

import time

import click

import dnnlib.cli
from dnnlib.options import gathered
from inference.options import NetworkChoice
from viewer.options import ServeChoice


@dnnlib.cli.command()
@gathered("network", NetworkChoice)
@gathered("serve", ServeChoice)
def main(network: NetworkChoice, serve: ServeChoice) -> None:
    """Look at a photo's head in the browser: turn it, change its expression, let a video drive it."""
    from viewer.examples import studio_of
    from viewer.server import Viewer

    serve.check()
    viewer = Viewer(
        studio_of(network, serve.sources, serve.drivings),
        serve.host,
        serve.port,
        serve.max_visitors,
    )
    click.echo(f"Open {viewer.url}")
    if viewer.token:
        click.echo("Who has this address may look and send files; it is not encrypted on its way.")
    try:
        end_s = time.monotonic() + serve.seconds if serve.seconds else float("inf")
        while (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(left_s, 1.0))
    finally:
        viewer.stop()


if __name__ == "__main__":
    main()
