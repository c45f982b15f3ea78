"""``copgen-edge weights``: get the authors' checkpoint or the shipped small one, or make a random one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from .common import emit, json_option, need


@click.group("weights")
def command() -> None:
    """Download the authors' weights, copy the small model's, or make random ones, all in the same layout."""


@command.command("fetch")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The folder to fill.")
@click.option("--revision-network", help="Branch, tag or commit of the network's repository; the newest by default.")
@click.option("--revision-autoencoders", help="The same of the autoencoders' repository.")
@json_option
def fetch(out: Path, revision_network: str | None, revision_autoencoders: str | None, as_json: bool) -> None:
    """Download the authors' two hub repositories (4.5 GB), resuming an earlier call.

    What was fetched, with revisions and SHA-256, is recorded in OUT/weights.json.
    """
    fetched = need("copgen_ref.fetch").fetch_weights(
        out, revision_network=revision_network, revision_autoencoders=revision_autoencoders
    )
    for repository in fetched:
        click.echo(f"{repository.repository} at {repository.revision}: {len(repository.files)} files", err=True)
    click.echo(f"next: copgen-edge export --checkpoint {out} --out bundle", err=True)
    if as_json:
        emit([asdict(repository) for repository in fetched])


@command.command("random")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option("--variant", type=click.Choice(["small", "base", "large", "huge"]), default="small", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def random(out: Path, variant: str, seed: int) -> None:
    """Write random weights of a variant's size, to try or to time what needs no trained ones."""
    need("copgen_ref.random_weights").write_random_checkpoint(out, variant, seed=seed)
    click.echo(f"wrote random weights of size {variant} to {out}", err=True)


@command.command("small")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
def small(out: Path) -> None:
    """Copy the small model that ships with copgen-edge: trained, on a made-up world, and not for science."""
    need("copgen_ref.small_model").copy_small_checkpoint(out)
    click.echo(f"wrote the small model and its card to {out}", err=True)
    click.echo(f"next: copgen-edge export --checkpoint {out} --out bundle", err=True)
